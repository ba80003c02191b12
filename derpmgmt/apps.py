from importlib import import_module

from django.apps import AppConfig
from django.contrib.admin.apps import AdminConfig

# From below: each declares its own words (`words.py`).
ROOMS = ("accounts", "fleet", "serials.rentals", "serials.numbers", "containers", "acl.maps", "acl.devices")


class DerpmgmtConfig(AppConfig):
    """The project package: what knows every app."""

    name = "derpmgmt"

    def ready(self) -> None:
        from derpmgmt import flow
        from derpmgmt.lib import queue

        for room in ROOMS:
            import_module(f"{room}.words")
        queue.register(flow.JOBS, flow.ANSWERS)


class PanelAdminConfig(AdminConfig):
    """Django's admin with our site: staff only, and only with a second factor."""

    default_site = "derpmgmt.admin_site.PanelAdminSite"
