"""What a Docker Engine does wrong: its own words, a code, and the sentence for people. Without the SDK."""

import re

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from derpmgmt.lib.problems import declare
from fleet.ssh import RemoteError


class EngineError(RemoteError):
    """A Docker Engine refused, or is not there.

    Codes: port_taken, address_missing, image_missing, not_found, conflict, busy, disk_full, daemon_down, no_docker,
    no_permission, too_old, podman, runtime, engine_refused (anything else the Engine says no to), garbage (not an Engine's answer).
    """

    code = "engine_refused"


SENTENCES: dict[str, str | Promise] = {
    "port_taken": _("A port that is needed is already in use on the server."),
    "address_missing": _("The server does not have the address that ports are to be bound to."),
    "image_missing": _("The server does not have the image."),
    "not_found": _("The Docker Engine does not know this object."),
    "conflict": _("The name is already in use on the server."),
    "busy": _("The Docker Engine is still busy with this container."),
    "disk_full": _("The server's disk is full."),
    "daemon_down": _("The Docker Engine is not running."),
    "no_docker": _("There is no Docker Engine on the server: its socket is absent."),
    "no_permission": _(
        "The SSH user may not use the Docker Engine: they must be root or belong to the group docker."
    ),
    "too_old": _("The Docker Engine is too old: version 20.10 or newer is needed."),
    "runtime": _("The container could not be started."),
    "podman": _(
        "This is podman, not a Docker Engine, and does not do what relays need: install Docker on the server."
    ),
    "engine_refused": _("The Docker Engine refused."),
    "garbage": _("What answers on the Docker socket is not a Docker Engine."),
}

declare(SENTENCES)

_WORDS: tuple[tuple[str, str], ...] = (
    # What Docker 20.10 to 29 say, in lower case; the first match counts. A failed start may report more than one.
    ("no space left on device", "disk_full"),
    ("disk quota exceeded", "disk_full"),
    ("port is already allocated", "port_taken"),
    ("address already in use", "port_taken"),
    ("ports are not available", "port_taken"),
    ("cannot assign requested address", "address_missing"),
    ("no such image", "image_missing"),
    ("removal of container", "busy"),
    ("marked for removal", "busy"),
    ("cannot connect to the docker daemon", "daemon_down"),
    ("error during connect", "daemon_down"),
    ("permission denied while trying to connect", "no_permission"),
    ("is already in use by container", "conflict"),
    ("already exists", "conflict"),
    ("no such container", "not_found"),
    ("no such volume", "not_found"),
    ("no such network", "not_found"),
    ("oci runtime", "runtime"),
    ("failed to create task", "runtime"),
)


def explain(words: str, status: int | None = None) -> EngineError:
    """The error behind a daemon's words and HTTP status."""
    lowered = words.lower()
    code = next((code for fragment, code in _WORDS if fragment in lowered), "")
    if not code:
        code = {404: "not_found", 409: "conflict"}.get(status or 0, "engine_refused")
    return EngineError(code=code, detail=words)


def port_in(words: str) -> int:
    """The port in a daemon's words about one that is taken, such as "listen udp4 10.0.0.4:20000: bind: …"; 0 when there is none."""
    # "Bind for 10.0.0.4:20000 failed" where a container has it; else the socket's address as Go writes it, maybe with the
    # container's behind it ("for 10.0.0.4:20000:172.30.0.2:443/tcp").
    found = re.search(r"(?:\d|\]):(\d{1,5})(?!\d)", words)
    return int(found[1]) if found else 0
