"""Serial numbers and rentals in the admin."""

import io
from collections.abc import Iterator
from datetime import date
from typing import Any
from unittest import mock

import openpyxl
import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import translation

from accounts.models import OperationLog, User
from derpmgmt.admin_site import PanelAdminSite
from fleet.models import Server
from serials.numbers import codes, services
from serials.numbers.models import SerialBatch, SerialNumber
from serials.rentals.models import Rental
from tests.accounts.ticking import confirm, tick
from tests.factories import SerialBatchFactory, SerialNumberFactory, UserFactory

pytestmark = pytest.mark.django_db
BATCHES, NUMBERS = "/admin/serials/serialbatch/", "/admin/serials/serialnumber/"
NEW = {"name": "spring", "days": "30", "count": "5", "redeem_by": "", "device_limit": "20", "quota_gb": "500",
       "rate_mbit": "20", "at_quota": "throttle"}  # fmt: skip


@pytest.fixture(autouse=True)
def _door_is_open() -> Iterator[None]:
    """The second factor is the door's business, tested there."""
    with mock.patch.object(PanelAdminSite, "has_permission", lambda _site, request: request.user.is_staff):
        yield


def enter(role: str) -> Client:
    client = Client()
    user = UserFactory(email=f"{role}@example.com", role=role)
    User.objects.update(language="en")
    client.force_login(user, backend="allauth.account.auth_backends.AuthenticationBackend")
    return client


@pytest.fixture
def chief(db: None) -> Client:
    return enter(User.Role.SUPERADMIN)


@pytest.fixture
def admin(db: None) -> Client:
    return enter(User.Role.ADMIN)


def act(client: Client, url: str, action: str, *rows: SerialBatch | SerialNumber) -> Any:
    answer = tick(client, url, action, rows)
    return confirm(client, answer) if answer.redirect_chain and "rows" in (answer.context or {}) else answer


def test_batch_is_unpaid_when_a_normal_admin_makes_it(admin: Client, servers: list[Server]) -> None:
    assert "is_paid" not in admin.get(f"{BATCHES}add/").content.decode()
    response = admin.post(f"{BATCHES}add/", NEW | {"servers": [server.pk for server in servers[:3]]})
    assert response.status_code == 302
    batch = SerialBatch.objects.get()
    assert (batch.days, batch.serials.count(), batch.is_paid, batch.servers.count()) == (30, 5, False, 3)
    assert (batch.quota_bytes, batch.rate_bytes_per_second) == (500 * 10**9, 2_500_000)
    assert batch.created_by is not None
    assert OperationLog.objects.get(action="batch.created").actor == batch.created_by
    assert admin.post(f"{BATCHES}add/", NEW | {"is_paid": "on"}).status_code == 403
    assert SerialBatch.objects.count() == 1


def test_batch_is_paid_when_a_super_admin_says_so(chief: Client) -> None:
    assert (
        chief.post(f"{BATCHES}add/", NEW | {"is_paid": "on", "quota_gb": "", "rate_mbit": ""}).status_code
        == 302
    )
    batch = SerialBatch.objects.get()
    assert (batch.is_paid, batch.quota_bytes, batch.rate_bytes_per_second) == (True, None, None)
    assert chief.get(f"{BATCHES}{batch.pk}/change/").status_code == 200


@pytest.mark.parametrize(
    "wrong", [{"days": "0"}, {"count": "10001"}, {"redeem_by": "2020-01-01"}, {"quota_gb": "-1"}]
)
def test_form_comes_back_when_a_value_is_wrong(chief: Client, wrong: dict[str, str]) -> None:
    response = chief.post(f"{BATCHES}add/", NEW | wrong)
    assert list(response.context["adminform"].form.errors) == list(wrong)
    assert not SerialBatch.objects.exists()


def test_form_comes_back_when_fewer_than_three_servers_are_chosen(
    chief: Client, servers: list[Server]
) -> None:
    response = chief.post(f"{BATCHES}add/", NEW | {"servers": [servers[0].pk]})
    assert list(response.context["adminform"].form.errors) == ["servers"]


def test_batch_cannot_be_changed_or_deleted(chief: Client) -> None:
    batch = SerialBatchFactory()
    assert chief.post(f"{BATCHES}{batch.pk}/change/", NEW).status_code == 403
    assert chief.post(f"{BATCHES}{batch.pk}/delete/", {"post": "yes"}).status_code == 403


def test_only_super_admins_mark_batches(admin: Client, chief: Client) -> None:
    batch = SerialBatchFactory(is_paid=False)
    act(admin, BATCHES, "mark-paid", batch)
    batch.refresh_from_db()
    assert not batch.is_paid
    act(chief, BATCHES, "mark-paid", batch)
    batch.refresh_from_db()
    assert batch.is_paid
    act(chief, BATCHES, "mark-unpaid", batch)
    batch.refresh_from_db()
    assert not batch.is_paid


def test_codes_are_exported_and_that_is_logged(admin: Client) -> None:
    batch = SerialBatchFactory(count=3, redeem_by=date(2099, 12, 31))
    expected = {codes.group(serial.code) for serial in batch.serials.all()}
    response = act(admin, BATCHES, "export_csv", batch)
    lines = response.content.decode("utf-8-sig").splitlines()
    assert {line.split(",")[0] for line in lines[1:]} == expected
    response = act(admin, BATCHES, "export_xlsx", batch)
    sheet = openpyxl.load_workbook(io.BytesIO(response.content)).active
    assert sheet is not None
    assert {row[0] for row in sheet.iter_rows(min_row=2, values_only=True)} == expected
    entries = OperationLog.objects.filter(action="batch.revealed")
    assert [(entry.actor.email, entry.detail["count"]) for entry in entries if entry.actor] == [
        ("admin@example.com", 3)
    ] * 2


def test_unused_serials_are_recalled_and_used_ones_refused(admin: Client, customer: User) -> None:
    used, unused = SerialBatchFactory(count=2).serials.all()
    services.redeem_serial(code=used.code, user=customer, by=customer)
    page = tick(admin, NUMBERS, "recall", [used, unused])
    with translation.override(page.headers["Content-Language"]):
        assert f"{used}: {services.SerialUsed()}" in page.content.decode()
    confirm(admin, page)
    assert set(SerialNumber.objects.values_list("pk", "status")) == {
        (used.pk, "used"),
        (unused.pk, "recalled"),
    }


def test_code_is_shown_only_when_asked_for_and_logged(admin: Client) -> None:
    serial = SerialNumberFactory()
    code = codes.group(serial.code)
    for url in (NUMBERS, f"{NUMBERS}{serial.pk}/change/"):
        page = admin.get(url).content.decode()
        assert code not in page
        assert serial.code not in page
        assert serial.masked in page
    url = f"{NUMBERS}{serial.pk}/reveal/do/"
    assert code not in admin.get(url).content.decode()
    assert not OperationLog.objects.filter(action="serial.revealed").exists()
    response = admin.post(url)
    assert code in response.content.decode()
    assert "no-store" in response["Cache-Control"]
    assert OperationLog.objects.get(action="serial.revealed").target == serial.masked


def test_serial_is_found_by_code_last_four_or_customer(admin: Client, customer: User) -> None:
    first, second, third = SerialBatchFactory(count=3).serials.all()
    services.redeem_serial(code=third.code, user=customer, by=customer)

    def found(text: str) -> set[int]:
        return {row.pk for row in admin.get(NUMBERS, {"q": text}).context["cl"].result_list}

    assert found(codes.group(first.code).lower()) == {first.pk}
    assert second.pk in found(second.code_end)
    assert found("li@example") == {third.pk}
    assert found(codes.generate()) == set()


@pytest.mark.slow
@pytest.mark.parametrize(
    "url",
    [BATCHES, NUMBERS, "/admin/serials/rental/", "/admin/serials/redemption/", "/admin/serials/rentalspan/"],
)
def test_list_takes_as_many_queries_when_it_is_longer(chief: Client, url: str) -> None:
    def grow(start: int, number: int) -> None:
        for n in range(start, start + number):
            user = UserFactory(email=f"{n}@example.com")
            services.redeem_serial(code=SerialNumberFactory(by=None).code, user=user, by=user)

    def count() -> int:

        with CaptureQueriesContext(
            connection,
        ) as queries:
            assert chief.get(url).status_code == 200
        return len(queries)

    grow(0, 2)
    chief.get(url)
    few = count()
    grow(2, 8)
    assert count() == few


def test_rental_is_shown_with_its_schedule_but_never_changed(chief: Client, customer: User) -> None:
    services.redeem_serial(code=SerialNumberFactory().code, user=customer, by=customer)
    url = f"/admin/serials/rental/{Rental.objects.get().pk}/change/"
    assert chief.get(url).status_code == 200
    assert chief.post(url, {"status": "closed"}).status_code == 403


def test_strangers_see_nothing_of_serials(customer: User) -> None:
    SerialBatchFactory()
    assert not SerialNumber.objects.visible_to(customer).exists()
    assert not SerialBatch.objects.visible_to(customer).exists()
    serial = SerialNumberFactory()
    services.redeem_serial(code=serial.code, user=customer, by=customer)
    assert SerialNumber.objects.visible_to(customer).get() == serial
