from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class BillingConfig(AppConfig):
    """See the table of rooms in docs/design.md for what this app holds."""

    name = "billing"
    verbose_name = _("Billing")
