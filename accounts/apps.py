from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _

from derpmgmt.lib.problems import declare_later


class AccountsConfig(AppConfig):
    """People, roles and the activity log."""

    name = "accounts"
    verbose_name = _("Accounts")

    def ready(self) -> None:
        from accounts import receivers  # noqa: F401

        declare_later("accounts.sweeps")
