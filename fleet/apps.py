from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _

from derpmgmt.lib.problems import declare_later


class FleetConfig(AppConfig):
    """See the table of rooms in docs/design.md for what this app holds."""

    name = "fleet"
    verbose_name = _("Fleet")

    def ready(self) -> None:
        """Every process can say what every stored code means."""
        declare_later("fleet.ssh.errors", "fleet.engine_errors", "fleet.machine")
