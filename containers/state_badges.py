"""States of relays, gates and jobs as operators see them: a word in a colour."""

from typing import Any

from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from containers.derp.probe import CAUSES
from containers.models import Gate, Relay, RelayHealth
from derpmgmt.lib.moments import age

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


def relay_words(row: Relay) -> tuple[str, str]:
    """The state of a relay and its colour, read with its server and its last test: one that runs may carry nothing all the same."""
    if row.status == Relay.Status.RUNNING and row.server.silent_since:
        return _("the server does not answer"), "red"
    if row.status == Relay.Status.RUNNING and row.last_health and not row.last_health.is_ok:
        return _("test failed"), "red"
    return row.get_status_display(), COLOURS[row.status]


def relay_state(row: Relay) -> SafeString:
    """The state of a relay as a badge (`relay_words`)."""
    words, colour = relay_words(row)
    return format_html('<span class="panel-state is-{}">{}</span>', colour, words)


def test_words(health: RelayHealth | None) -> str | SafeString:
    """What a relay's last test came to, and how long ago; "–" where there was none."""
    if health is None:
        return "–"
    if health.is_ok:
        return format_html("<span>✓ {} · {} ms</span>", age(health.at), f"{health.packet_ms:.1f}")
    return format_html("<span>✗ {} · {}</span>", age(health.at), CAUSES.get(health.cause, health.cause))


def gate_state(gate: Any) -> SafeString:
    """The coloured state of a gate that was read by `gates.with_relays`."""
    if gate.status == Gate.Status.PLANNED and not gate.has_relays:
        return format_html('<span class="panel-state is-grey">{}</span>', _("not needed yet"))
    if gate.status == Gate.Status.RUNNING and gate.server.silent_since:
        return format_html('<span class="panel-state is-red">{}</span>', _("the server does not answer"))
    return state_badge(gate)
