"""The steps of deployments and server checks in words, as log, pages and commands show them."""

from collections.abc import Iterable
from dataclasses import dataclass

from django.utils.functional import Promise
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from derpmgmt.lib.jobs import StepTime

_NAMES: dict[str, str | Promise] = {
    "connect": _("Connect to the server"),
    "docker": _("Ask the Docker Engine"),
    "machine": _("Look at the machine"),
    "gate": _("Prepare the gate"),
    "network": _("Prepare the network"),
    "image": _("Load the image"),
    "clean": _("Clean up"),
    "volume": _("Make the volume"),
    "create": _("Make the container"),
    "files": _("Copy the files"),
    "start": _("Start"),
    "check": _("See that it stays up"),
    "probe": _("Test"),
    "ports": _("Test the ports"),
    "relay": _("Prove a relay"),
    "remove": _("Remove the container"),
    "list": _("Deliver the list of devices"),
    "done": _("Done"),
}


@dataclass(frozen=True)
class NamedStep:
    """A step for people: its words, and the seconds it took or has taken so far."""

    name: str
    label: str
    seconds: float
    is_over: bool

    @property
    def duration(self) -> str:
        """How long it took, in words."""
        return format_seconds(self.seconds)


def format_seconds(seconds: float) -> str:
    """Seconds with one digit after the point, and their unit."""
    return gettext("%(seconds)s s") % {"seconds": f"{seconds:.1f}"}


def step_name(name: str) -> str:
    """A step in words; one that has none is shown as it is."""
    return str(_NAMES.get(name, name))


def name_steps(steps: Iterable[StepTime]) -> list[NamedStep]:
    """Steps with their words."""
    return [NamedStep(step.name, step_name(step.name), step.seconds, step.is_over) for step in steps]
