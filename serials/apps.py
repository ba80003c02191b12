from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class SerialsConfig(AppConfig):
    """See the table of rooms in docs/design.md for what this app holds."""

    name = "serials"
    verbose_name = _("Serial numbers and rentals")
