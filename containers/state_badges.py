"""States of relays, gates and jobs as operators see them: a word in a colour."""

from typing import Any

from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from containers.models import Gate

COLOURS = {
    "queued": "grey",
    "planned": "blue",
    "running": "green",
    "done": "green",
    "failed": "red",
    "errored": "red",
    "lost": "orange",
    "removing": "orange",
    "released": "grey",
}


def state_badge(row: Any, colour: str = "") -> SafeString:
    """The state of a relay, a gate or a job as a word in its colour, or in `colour`."""
    return format_html(
        '<span class="panel-state is-{}">{}</span>', colour or COLOURS[row.status], row.get_status_display()
    )


def gate_state(gate: Any) -> SafeString:
    """The coloured state of a gate that was read by `gates.with_relays`."""
    if gate.status == Gate.Status.PLANNED and not gate.has_relays:
        return format_html('<span class="panel-state is-grey">{}</span>', _("not needed yet"))
    if gate.status == Gate.Status.RUNNING and gate.server.silent_since:
        return format_html('<span class="panel-state is-red">{}</span>', _("the server does not answer"))
    return state_badge(gate)
