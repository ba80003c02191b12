from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class ContainersConfig(AppConfig):
    """See the table of rooms in docs/design.md for what this app holds."""

    name = "containers"
    verbose_name = _("Relays")
