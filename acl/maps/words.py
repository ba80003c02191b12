"""What people call what happens to maps."""

from django.utils.translation import gettext_lazy as _

from accounts.wordlist import Kind, declare

declare(
    actions={
        "map.renewed": _("New version of the map by hand"),
        "map.region_changed": _("Region ID changed"),
        "live_url.created": _("Live URL made"),
        "live_url.revealed": _("Live URL shown to an operator"),
        "live_url.revoked": _("Live URL revoked"),
    },
    notices={
        "map_changed": Kind(_("The map has changed")),
    },
)
