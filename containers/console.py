"""What the operators' commands say of relays."""

from django.utils.translation import gettext as _

from containers.models import Relay


def relay_state(relay: Relay) -> str:
    """The state as a word; a relay is not said to run while its server or its last test says otherwise."""
    if relay.status == Relay.Status.RUNNING and relay.server.silent_since:
        return _("the server does not answer")
    if relay.status == Relay.Status.RUNNING and relay.last_health and not relay.last_health.is_ok:
        return _("test failed")
    return str(relay.get_status_display())
