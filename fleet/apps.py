from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class FleetConfig(AppConfig):
    """See the table of rooms in docs/design.md for what this app holds."""

    name = "fleet"
    verbose_name = _("Fleet")
