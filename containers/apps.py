from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _

from derpmgmt.lib.problems import declare_later


class ContainersConfig(AppConfig):
    """See the table of rooms in docs/design.md for what this app holds."""

    name = "containers"
    verbose_name = _("Relays")

    def ready(self) -> None:
        """Every process can say what every stored code means."""
        declare_later("containers.problems", "containers.services.images")
