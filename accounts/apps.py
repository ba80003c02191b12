from django.apps import AppConfig
from django.contrib.admin.apps import AdminConfig
from django.utils.translation import gettext_lazy as _


class AccountsConfig(AppConfig):
    """People, roles and the activity log."""

    name = "accounts"
    verbose_name = _("Accounts")

    def ready(self) -> None:
        from accounts import receivers  # noqa: F401


class PanelAdminConfig(AdminConfig):
    """Django's admin with our site: staff only, and only with a second factor."""

    default_site = "accounts.admin_site.PanelAdminSite"
