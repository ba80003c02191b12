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
        "relay.limits_changed": _("Limits of a relay changed"),
        "relay.stopped": _("Relay stopped, traffic used up"),
        "relay.going_on": _("Relay goes on, traffic left again"),
        "gate.retried": _("Gate tried again"),
    },
    notices={
        "relay_silent": Kind(_("A relay carries no packets")),
        "server_used_up": Kind(_("A relay stops, its server's traffic is used up")),
        "traffic_near": Kind(_("Little traffic is left this month")),
        "traffic_over": Kind(_("The month's traffic is used up")),
    },
)
