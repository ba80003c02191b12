"""What people call what happens to servers."""

from django.utils.translation import gettext_lazy as _

from accounts.wordlist import declare

declare(
    actions={
        "credential.created": _("Credential added"),
        "credential.changed": _("Credential changed"),
        "server.created": _("Server added"),
        "server.changed": _("Server changed"),
        "server.host_key_confirmed": _("Host key confirmed"),
        "server.check_requested": _("Server check requested"),
        "server.accepted": _("Server accepted"),
        "server.maintenance_started": _("Maintenance started"),
        "server.maintenance_ended": _("Maintenance ended"),
        "server.draining_started": _("Draining started"),
        "server.draining_ended": _("Draining ended"),
        "server.traffic_over": _("A server's traffic is used up"),
        "server.traffic_back": _("A server has traffic again"),
        "server.retired": _("Server retired"),
    },
)
