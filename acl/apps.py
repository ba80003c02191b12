from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class AclConfig(AppConfig):
    """See the table of rooms in docs/design.md for what this app holds."""

    name = "acl"
    verbose_name = _("Maps and devices")
