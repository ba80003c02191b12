"""What operators do, as the admin's navigation has it: each task opens its first list and has the others beside it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from django.contrib.admin import AdminSite
from django.http import HttpRequest
from django.urls import reverse
from django.utils.functional import Promise
from django.utils.text import capfirst
from django.utils.translation import gettext_lazy as _


@dataclass(frozen=True)
class Task:
    """One entry of the navigation: its word, its page, the lists that belong to it (`app.model`) and pages of its own."""

    word: str | Promise
    page: str
    lists: tuple[str, ...] = ()
    pages: tuple[str, ...] = ()


TASKS = (
    Task(_("Overview"), "admin:index"),
    Task(
        _("Servers"),
        "admin:fleet_server_changelist",
        ("fleet.server", "containers.relay", "containers.gate", "containers.deployment", "containers.servercheck"),
        ("containers_server_check",),
    ),
    Task(
        _("Customers"),
        "admin:accounts_user_changelist",
        (
            "accounts.user", "serials.rental", "serials.rentalspan", "acl.device", "acl.devicepolicy", "acl.admission",
            "acl.aclconfig", "acl.liveurl", "acl.mapregion", "acl.aclevent",
        ),
    ),
    Task(
        _("Serial numbers"),
        "admin:serials_serialnumber_changelist",
        ("serials.serialnumber", "serials.serialbatch", "serials.redemption"),
    ),
    Task(_("Alerts"), "admin:alerts", ("accounts.alert", "accounts.alertdelivery", "accounts.notice", "accounts.putoff"), ("alerts",)),
    Task(_("Log"), "admin:accounts_operationlog_changelist", ("accounts.operationlog",)),
    Task(_("Settings"), "admin:settings", ("accounts.brandsettings", "fleet.region", "fleet.sshcredential", "fleet.provideraccount", "accounts.alertrule", "accounts.alertroute"), ("settings",)),
)  # fmt: skip


@dataclass(frozen=True)
class Way:
    """A link of the navigation; `is_here` where it leads to the page that is shown, or to what stands above it."""

    word: str
    url: str
    is_here: bool = False


@dataclass(frozen=True)
class Room:
    """The lists of one room, under "More"."""

    word: str
    ways: tuple[Way, ...]


def navigation(site: AdminSite, request: HttpRequest, rooms: Iterable[Any]) -> dict[str, Any]:
    """The tasks, the lists of the one that is open (`beside`), and all lists by room; `rooms` as `get_app_list` has them."""
    match = request.resolver_match
    name = (match.url_name or "") if match else ""
    here = _list_of(site, name)
    tasks, beside = [], []
    for task in TASKS:
        is_here = here in task.lists or name in task.pages or (task.page == "admin:index" and name == "index")
        tasks.append(Way(str(task.word), reverse(task.page), is_here))
        if is_here and len(task.lists) > 1:
            has_list = task.page.endswith("_changelist")
            own = [] if has_list else [Way(str(task.word), reverse(task.page), name in task.pages)]
            beside = own + [_way(site, label, here) for label in task.lists if _is_there(site, label)]
    more = [
        Room(
            str(room["name"]),
            tuple(
                Way(str(model["name"]), model["admin_url"]) for model in room["models"] if model["admin_url"]
            ),
        )
        for room in rooms
    ]
    return {"tasks": tasks, "beside": beside, "rooms": [room for room in more if room.ways]}


def _list_of(site: AdminSite, name: str) -> str:
    """The model (`app.model`) to which the page with this URL name belongs."""
    for model in site._registry:
        if name.startswith(f"{model._meta.app_label}_{model._meta.model_name}_"):
            return str(model._meta.label_lower)
    return ""


def _is_there(site: AdminSite, label: str) -> bool:
    return any(model._meta.label_lower == label for model in site._registry)


def _way(site: AdminSite, label: str, here: str) -> Way:
    (model,) = (model for model in site._registry if model._meta.label_lower == label)
    url = reverse(f"admin:{label.replace('.', '_')}_changelist")
    return Way(capfirst(str(model._meta.verbose_name_plural)), url, label == here)
