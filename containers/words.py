"""What people call what happens to relays and gates."""

from django.utils.translation import gettext_lazy as _

from accounts.wordlist import Kind, declare

declare(
    actions={
        "relay.ready": _("Relay ready"),
        "relay.removed": _("Relay removed"),
        "relay.allocated": _("Relay put onto a server"),
        "relay.given_up": _("Relay given up"),
        "relay.retried": _("Relay tried again"),
        "gate.retried": _("Gate tried again"),
    },
    notices={
        "relay_silent": Kind(_("A relay carries no packets")),
    },
)
