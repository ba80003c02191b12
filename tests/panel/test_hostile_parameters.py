"""Every address of the panel, asked for with parameters that nobody means well: nothing breaks, and no list gets longer."""

from typing import Any
from urllib.parse import urlencode

import pytest
from django.contrib import admin
from django.contrib.contenttypes.models import ContentType
from django.db.models import DateTimeField
from django.test import Client

from accounts.admin_base import StaffAdmin
from accounts.models import User
from acl.devices.models import Device
from serials.rentals.models import Rental
from tests.panel import world
from tests.panel.test_every_url import (  # noqa: F401  (fixtures)
    REFUSALS,
    Address,
    addresses,
    ask,
    rental,
)

pytestmark = [pytest.mark.django_db, pytest.mark.slow]

BEYOND = "9" * 30  # no integer of a database
ENDLESS = "9" * 5000  # Python reads no number with so many digits
HOSTILE = {"beyond": BEYOND, "odd": "-1\x00\ud7ff'\"<&;%00" + "a " * 3000}
# What the panel's own pages and the admin's lists read from an address.
NAMES = (
    "page", "per_page", "sort", "order_by", "cursor", "p", "o", "q", "all", "_facets", "_to_field", "_popup", "e", "limit",
    "offset", "kind", "view", "connected", "revoked", "refused", "answer", "key", "mark", "map", "next", "code", "term", "object_id",
    "format", "language", "back", "replaces", "shown", "id", "pk",
    "level", "room", "region", "tab", "spans", "gone", "versions", "deployments", "_changelist_filters", "what", "print",
)  # fmt: skip


def _ask_all(client: Client | None, found: list[Address], ask: Any, values: dict[str, str]) -> list[str]:  # noqa: F811
    """What broke when every address was asked for with these values, by GET and by POST; without a client by visitors."""
    faults, asked = [], urlencode(values)
    for address in found:
        query = Address(address.name, f"{address.path}?{asked}")
        for method, target, options in (("get", query, {}), ("post", address, {"data": values})):
            browser = client or Client()
            browser.raise_request_exception = False
            status = ask(browser, target, method, **options).status_code
            if status not in {200, 204} | REFUSALS:
                faults.append(f"{method} {address.name} {status}")
    return faults


@pytest.mark.parametrize(
    ("role", "kind"),
    [
        ("visitor", "odd"),
        (User.Role.USER, "odd"),
        (User.Role.USER, "beyond"),
        (User.Role.SUPERADMIN, "beyond"),
    ],
)
def test_no_page_breaks_when_its_parameters_are_hostile(
    addresses: list[Address],  # noqa: F811
    rental: Rental,  # noqa: F811
    ask: Any,  # noqa: F811
    role: str,
    kind: str,
) -> None:
    client = None
    if role == User.Role.USER:
        client = world.sign_in(rental.user)
    elif role == User.Role.SUPERADMIN:
        client = world.enter(role, has_factor=True)
    own = [address for address in addresses if address.is_admin == (role == User.Role.SUPERADMIN)]
    assert not _ask_all(client, own, ask, dict.fromkeys(NAMES, HOSTILE[kind]))


def test_a_customers_lists_show_a_page_when_its_number_is_beyond_any(rental: Rental) -> None:  # noqa: F811
    client = world.sign_in(rental.user)
    for path in (
        "/history/?",
        "/history/?view=table&kind=map&",
        "/map/history/?",
        "/devices/?",
        "/devices/lists/?",
        "/devices/now/?",
        "/devices/admissions/?",
    ):
        for value in (BEYOND, ENDLESS, "0", "-7", "2147483648", "1.5", "x"):
            values = dict.fromkeys(("page", "connected", "revoked", "refused", "per_page"), value)
            assert client.get(path + urlencode(values)).status_code == 200, path


def test_a_page_behind_the_last_is_the_last(rental: Rental) -> None:  # noqa: F811
    world.add_devices(rental, 25)  # 75 questions and the one of the world: four pages
    client = world.sign_in(rental.user)
    last = client.get("/devices/admissions/?page=4").context["table"]
    beyond = client.get(f"/devices/admissions/?page={BEYOND}").context["table"]
    assert [row.record.pk for row in beyond.page] == [row.record.pk for row in last.page]
    assert 0 < len(last.page) < 25


def _lists() -> dict[str, Any]:
    """The address of each change list, and its page."""
    return {
        f"/admin/{model._meta.app_label}/{model._meta.model_name}/": page
        for model, page in admin.site._registry.items()
    }


def _questions(page: Any) -> list[tuple[str, str]]:
    """What a change list may be asked that nobody means: in words, and by a column of each kind."""
    found = {"q": [("q", "a " * 3000), ("q", "a b " * 45)]}
    for field in page.model._meta.concrete_fields:
        name = f"{field.name}__id__exact" if field.is_relation else f"{field.name}__exact"
        found[type(field).__name__] = [(name, BEYOND)]
        if isinstance(field, DateTimeField):
            moments = ("0001-01-01 00:00:00+23:59", "9999-12-31 23:59:59-23:59", "2026-13-45")
            found["moment"] = [(f"{field.name}__gte", moment) for moment in moments]
    return [question for questions in found.values() for question in questions]


def test_no_list_of_the_admin_breaks_when_a_parameter_is_hostile(rental: Rental) -> None:  # noqa: F811
    client = world.enter(User.Role.SUPERADMIN, has_factor=True)
    client.raise_request_exception = False
    faults = []
    # These are read in one place for all lists.
    shared = [("p", BEYOND), ("p", "-1"), ("p", ENDLESS), ("o", BEYOND), ("o", "-1.x"), ("nothing", "1")]
    shared += [("q", "\x00"), ("q", "x" * 90_000), ("q", "#" + BEYOND)]
    for path, page in _lists().items():
        for name, value in _questions(page) + (shared if page.model in {User, Device} else []):
            status = client.get(path, {name: value}).status_code
            if status not in {200, 302}:
                faults.append(f"{path}?{name}={value[:30]} {status}")
    assert not faults


def test_rows_with_impossible_numbers_are_not_there(rental: Rental) -> None:  # noqa: F811
    staff = world.enter(User.Role.SUPERADMIN, has_factor=True)
    staff.raise_request_exception = False
    for path in _lists():
        for pk in (BEYOND, "-1"):
            assert staff.get(f"{path}{pk}/change/").status_code == 302, path
    for pk in ("0", BEYOND, ENDLESS, "-1", "x", "1.5"):
        for page in ("change", "history", "delete", "ban", "close"):
            response = staff.get(f"/admin/accounts/user/{pk}/{page}/")
            assert response.status_code in {302, 403, 404}, (pk, page)
    customer = world.sign_in(rental.user)
    customer.raise_request_exception = False
    for pk in ("0", BEYOND, ENDLESS, "-1", "x"):
        for path in (f"/devices/{pk}/revoke/", f"/map/regions/{pk}/", f"/relays/{pk}/probe/"):
            assert customer.post(path).status_code in {302, 404}, path


def test_no_row_has_a_page_outside(rental: Rental) -> None:  # noqa: F811
    staff = world.enter(User.Role.SUPERADMIN, has_factor=True)
    staff.raise_request_exception = False
    for kind in [*ContentType.objects.values_list("pk", flat=True), BEYOND, "-1", "x"]:
        for pk in ("1", BEYOND, "x"):
            assert staff.get(f"/admin/r/{kind}/{pk}/").status_code == 404, (kind, pk)


def test_a_page_of_a_list_has_a_fixed_size_whatever_is_asked_for(rental: Rental) -> None:  # noqa: F811
    world.add_devices(rental, 40)  # 120 devices, 120 questions
    client = world.sign_in(rental.user)
    for path in (
        "/devices/admissions/?",
        "/map/history/?",
        "/history/?view=table&kind=device&",
        "/devices/lists/?",
    ):
        usual = len(client.get(path).content)
        for name in ("per_page", "page_size", "limit", "all"):
            assert len(client.get(f"{path}{name}=100000").content) < usual * 1.5, (path, name)


def test_no_list_of_the_admin_shows_more_than_a_hundred_rows(rental: Rental) -> None:  # noqa: F811
    world.add_devices(rental, 40)
    client = world.enter(User.Role.SUPERADMIN, has_factor=True)
    pages = _lists()
    for path in ("/admin/acl/device/", "/admin/acl/admission/"):
        for query in ("", "?all=", "?all=1", "?_facets=True&all="):
            assert 20 < len(client.get(path + query).context["cl"].result_list) <= 100, path + query
    assert not [path for path, page in pages.items() if max(page.list_per_page, page.list_max_show_all) > 100]
    # Whoever adds a page of the admin gets the bounds from here.
    assert not [path for path, page in pages.items() if not isinstance(page, StaffAdmin)]
