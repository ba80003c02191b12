from importlib import import_module
from typing import Any

from django.apps import AppConfig
from django.contrib import admin
from django.contrib.admin.apps import SimpleAdminConfig
from django.contrib.admin.checks import check_admin_app, check_dependencies
from django.contrib.admin.options import BaseModelAdmin
from django.core import checks
from django.core.paginator import Paginator
from django.forms.models import BaseModelForm

# From below: each declares its own words (`words.py`).
ROOMS = ("accounts", "fleet", "serials.rentals", "serials.numbers", "containers", "acl.maps", "acl.devices")

# Generic for mypy (django-stubs); at run time Django takes no type arguments for them. Before any app's forms and pages are loaded.
for _generic in (BaseModelAdmin, BaseModelForm, Paginator):
    setattr(_generic, "__class_getitem__", classmethod(lambda cls, _item: cls))  # noqa: B010 — mypy knows no such attribute


class DerpmgmtConfig(AppConfig):
    """The project package: what knows every app."""

    name = "derpmgmt"

    def ready(self) -> None:
        from derpmgmt.lib import queue

        for room in ROOMS:
            import_module(f"{room}.words")
        # When something is first announced or asked: the jobs of all rooms weigh more than most commands.
        queue.register_later(lambda: import_module("derpmgmt.flow"))


class PanelAdminConfig(SimpleAdminConfig):
    """Django's admin with our site: staff only, and only with a second factor.

    Its pages are loaded with the addresses (`derpmgmt/urls.py`), and for the checks: a process that serves none has no need of them.
    """

    default_site = "derpmgmt.admin_site.PanelAdminSite"

    def ready(self) -> None:
        checks.register(check_dependencies, checks.Tags.admin)
        checks.register(_check_pages, checks.Tags.admin)


def _check_pages(app_configs: Any, **options: Any) -> list[Any]:
    admin.autodiscover()
    return check_admin_app(app_configs, **options)
