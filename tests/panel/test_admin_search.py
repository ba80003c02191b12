"""The one search in the head of the admin: each room finds its own, quickly, and only for operators."""

from html import unescape
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from accounts.models import User
from acl.devices.models import Device
from derpmgmt.lib.finding import MOST_FOUND
from fleet.models import Server
from serials.numbers.models import SerialNumber
from serials.rentals.models import Rental
from tests.factories import (
    DeviceFactory,
    RentalFactory,
    SerialBatchFactory,
    ServerFactory,
    UserFactory,
    WholeRentalFactory,
)
from tests.panel import world

pytestmark = pytest.mark.django_db

SEARCH = "/admin/search/"


@pytest.fixture
def staff() -> Client:
    client = world.enter(User.Role.ADMIN, has_factor=True)
    User.objects.update(language="en")
    return client


@pytest.fixture
def rental() -> Rental:
    return WholeRentalFactory(user=UserFactory(email="ann.lee@example.com", username="annika"))


def page_of(row: Any) -> str:
    """The address of a row's page."""
    return f"/admin/{row._meta.app_label}/{row._meta.model_name}/{row.pk}/change/"


@pytest.mark.parametrize("spoken", ["{}", "  {}  "])
def test_one_thing_alone_opens_at_once_by_whatever_tells_it(
    staff: Client, rental: Rental, spoken: str
) -> None:
    customer = rental.user
    serial = SerialNumber.objects.get(redemption__rental=rental)
    server = rental.relays.get(slot=1).server
    Server.objects.filter(pk=server.pk).update(name="sh-edge-1", address="198.51.100.77")
    device = DeviceFactory(rental=rental, node_key="ab12cd34" + "e" * 56)
    grouped = "-".join(serial.code[start : start + 4] for start in range(0, 20, 4))
    known: dict[str, Any] = {
        "ann.lee@example.com": customer,
        "ANN.LEE@": customer,
        "annik": customer,
        f"#{customer.pk}": customer,
        serial.code: serial,
        grouped.lower(): serial,
        serial.code[-4:]: serial,
        "sh-edge": server,
        "198.51.100.77": server,
        "ab12cd34": device,
        f"nodekey:{device.node_key}": device,
    }
    for text, row in known.items():
        response = staff.get(SEARCH, {"q": spoken.format(text)})
        assert response.status_code == 302, text
        assert response["Location"] == page_of(row), text
        assert staff.get(response["Location"]).status_code == 200


def test_several_stand_beside_each_other_by_kind(staff: Client) -> None:
    people = [UserFactory(email=f"sh-{number}@example.com") for number in range(2)]
    server = ServerFactory(name="sh-main")
    text = unescape(staff.get(SEARCH, {"q": "sh-"}).content.decode())
    assert [heading in text for heading in ("<h2>Users</h2>", "<h2>Servers</h2>")] == [True, True]
    for row in (*people, server):
        assert f'href="{page_of(row)}"' in text
    assert "Serial numbers</h2>" not in text
    # What was typed stands in the field, so that it can be made longer.
    assert 'name="q" value="sh-"' in text


@pytest.mark.parametrize(
    "text", ["", "   ", "nobody-here", "x" * 201, "%", "_", "\x00", "'\"<b>", "#" + "9" * 30, "é́"]
)
def test_it_says_so_when_nothing_is_found(staff: Client, rental: Rental, text: str) -> None:
    response = staff.get(SEARCH, {"q": text})
    assert response.status_code == 200
    page = response.content.decode()
    assert ("Nothing is found" in page) is bool(text.strip())
    assert ("What are you looking for?" in page) is not bool(text.strip())
    assert "admin-found" in page
    assert "<b>" not in page


@pytest.mark.parametrize("role", [User.Role.USER, User.Role.DISTRIBUTOR])
def test_nobody_but_operators_finds_anything(rental: Rental, role: str) -> None:
    client = world.enter(role, has_factor=False)
    assert client.get(SEARCH, {"q": rental.user.email}, follow=True).status_code == 403
    assert Client().get(SEARCH, {"q": rental.user.email})["Location"].startswith("/admin/login/")
    careless = world.enter(User.Role.ADMIN, has_factor=False)
    assert page_of(rental.user) not in careless.get(SEARCH, {"q": rental.user.email})["Location"]


@pytest.mark.parametrize("role", [User.Role.ADMIN, User.Role.SUPERADMIN])
def test_operators_of_either_role_find_the_same(rental: Rental, role: str) -> None:
    client = world.enter(role, has_factor=True)
    assert client.get(SEARCH, {"q": "ann.lee"})["Location"] == page_of(rental.user)


@pytest.mark.slow
def test_it_costs_the_same_and_shows_so_many_however_much_there_is(staff: Client) -> None:
    def look() -> tuple[int, str]:
        with CaptureQueriesContext(connection) as queries:
            text = staff.get(SEARCH, {"q": "aaaaaaaa"}).content.decode()
        return len(queries), text

    rental = RentalFactory()
    for number in range(2):
        UserFactory(email=f"aaaaaaaa{number}@example.com")
        ServerFactory(name=f"aaaaaaaa{number}")
        DeviceFactory(rental=rental, node_key=f"aaaaaaaa{number:056x}")
    few, _text = look()
    for number in range(2, 15):
        UserFactory(email=f"aaaaaaaa{number}@example.com")
        ServerFactory(name=f"aaaaaaaa{number}")
        DeviceFactory(rental=rental, node_key=f"aaaaaaaa{number:056x}")
    many, text = look()
    assert many == few <= 16
    for model in (User, Server, Device):
        stem = f"/admin/{model._meta.app_label}/{model._meta.model_name}/"
        assert text.count(f'<li><a href="{stem}') == MOST_FOUND


@pytest.mark.parametrize(
    "text", ["ann", "K7QW", "sh-1", "198.51.100.7", "ab12cd34", "nodekey:ab", "a@b.example"]
)
def test_every_lookup_is_by_an_index(staff: Client, rental: Rental, text: str) -> None:
    SerialBatchFactory(count=3)
    with CaptureQueriesContext(connection) as queries:
        staff.get(SEARCH, {"q": text})
    tables = [model._meta.db_table for model in (User, Server, SerialNumber, Device)]
    looked = [
        query["sql"]
        for query in queries
        if query["sql"].startswith("SELECT")
        and any(f"FROM {quote}{table}{quote}" in query["sql"] for table in tables for quote in '"`')
        and f"LIMIT {MOST_FOUND}" in query["sql"]
    ]
    assert looked
    for sql in looked:
        with connection.cursor() as cursor:
            # As it was logged, with its values in it.
            is_sqlite = connection.vendor == "sqlite"
            cursor.execute(f"EXPLAIN {'QUERY PLAN ' if is_sqlite else ''}{sql}".replace("%", "%%"), [])
            plan = cursor.fetchall()
        if is_sqlite:
            assert not [line for line in plan if str(line[3]).startswith("SCAN")], (sql, plan)
        else:
            # Of tables as short as a test's it reads all rows whatever there is: what counts are the keys that it could take.
            assert not [line for line in plan if line[3] == "ALL" and line[4] is None], (sql, plan)
