"""Serial numbers and rentals in the admin."""

import io
import re
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
from serials.numbers import batch_codes, codes, services
from serials.numbers.models import SerialBatch, SerialNumber
from serials.rentals.models import Rental
from tests.accounts.ticking import confirm, tick
from tests.factories import SerialBatchFactory, SerialNumberFactory, UserFactory

pytestmark = pytest.mark.django_db
BATCHES, NUMBERS = "/admin/serials/serialbatch/", "/admin/serials/serialnumber/"
NEW = {"name": "spring", "days": "30", "count": "5", "redeem_by": "", "device_limit": "20", "quota_gb": "500",
       "upload_quota_gb": "100", "download_quota_gb": "400",
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
    assert (batch.upload_quota_bytes, batch.download_quota_bytes) == (100 * 10**9, 400 * 10**9)
    shown = admin.get(f"{BATCHES}{batch.pk}/change/").content.decode()
    assert "500\u00a0GB · up 100\u00a0GB · down 400\u00a0GB" in shown
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
    "wrong",
    [
        {"days": "0"},
        {"count": "10001"},
        {"redeem_by": "2020-01-01"},
        {"quota_gb": "-1"},
        {"upload_quota_gb": "0"},
    ],
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


def in_the_page(answer: Any) -> list[str]:
    """The codes that a page shows."""
    return re.findall(r"\b(?:[0-9A-Z]{4}-){4}[0-9A-Z]{4}\b", answer.content.decode())


def test_making_a_batch_ends_at_its_codes(chief: Client) -> None:
    form = chief.get(f"{BATCHES}add/").content.decode()
    assert re.search(r'<input type="checkbox" name="is_paid"[^>]* checked', form)
    answer = chief.post(f"{BATCHES}add/", NEW | {"is_paid": "on"}, follow=True)
    batch = SerialBatch.objects.get()
    assert answer.redirect_chain == [(f"{BATCHES}{batch.pk}/codes/", 302)]
    expected = [codes.group(serial.code) for serial in batch.serials.order_by("pk")]
    assert in_the_page(answer) == expected
    assert "5 serial numbers of batch spring are made." in answer.content.decode()
    assert "no-store" in answer["Cache-Control"]
    assert OperationLog.objects.filter(action="batch.revealed").count() == 1
    # Read once; after that the page asks, and says what was done.
    again = chief.get(f"{BATCHES}{batch.pk}/codes/")
    assert in_the_page(again) == []
    assert OperationLog.objects.filter(action="batch.revealed").count() == 1
    shown = chief.post(f"{BATCHES}{batch.pk}/codes/", {"what": "show"})
    assert in_the_page(shown) == expected
    assert OperationLog.objects.filter(action="batch.revealed").count() == 2


def test_what_is_used_or_recalled_is_counted_and_not_handed_out_again(
    admin: Client, chief: Client, customer: User
) -> None:
    batch = SerialBatchFactory(count=4, name="autumn")
    used, recalled, *free = batch.serials.order_by("pk")
    services.redeem_serial(code=used.code, user=customer, by=customer)
    services.recall_serial(serial=recalled, by=None)
    url = f"{BATCHES}{batch.pk}/codes/"
    text = admin.get(url).content.decode()
    assert "2 unused, 1 used, 1 recalled, 0 expired" in text
    expected = [codes.group(serial.code) for serial in free]
    assert in_the_page(admin.post(url, {"what": "show"})) == expected
    assert in_the_page(admin.post(url, {"what": "cards"})) == expected
    lines = admin.post(url, {"what": "csv"}).content.decode("utf-8-sig").splitlines()
    assert [line.split(",")[2] for line in lines[1:]] == ["used", "recalled", "unused", "unused"]
    sheet = openpyxl.load_workbook(io.BytesIO(admin.post(url, {"what": "xlsx"}).content)).active
    assert sheet is not None
    assert [row[0] for row in sheet.iter_rows(min_row=2, values_only=True)] == [
        codes.group(serial.code) for serial in batch.serials.order_by("pk")
    ]
    (row,) = re.findall(r"<tr>.*?autumn.*?</tr>", admin.get(BATCHES).content.decode(), re.DOTALL)
    shown = {
        name: re.search(rf"field-{name}\">(\d+)<", row) for name in ("unused", "used", "recalled", "expired")
    }
    assert {name: found and found[1] for name, found in shown.items()} == {
        "unused": "2", "used": "1", "recalled": "1", "expired": "0",
    }  # fmt: skip


def test_cards_say_whose_they_are_what_they_give_and_how_to_redeem(admin: Client, settings: Any) -> None:
    batch = SerialBatchFactory(
        count=3,
        days=90,
        device_limit=5,
        download_quota_bytes=500 * 10**9,
        redeem_by=date(2099, 12, 31),
        name="<b>x</b>",
    )
    answer = admin.post(f"{BATCHES}{batch.pk}/codes/", {"what": "cards"})
    text = answer.content.decode()
    assert text.count("<article>") == 3
    for words in ("derpmgmt", "90 days · 5 devices · devices may receive 500\u00a0GB a month", f"{settings.PUBLIC_URL}/redeem/",
                  "To be redeemed by 2099-12-31.", "&lt;b&gt;x"):  # fmt: skip
        assert words in text, words
    assert "<b>x" not in text
    assert "no-store" in answer["Cache-Control"]


def test_a_long_batch_is_printed_in_parts(admin: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_codes, "CARDS", 2)
    batch = SerialBatchFactory(count=5)
    url = f"{BATCHES}{batch.pk}/codes/"
    assert "this batch has 3 prints" in admin.get(url).content.decode()
    found = [
        in_the_page(admin.post(url, {"what": "cards", "print": number}))
        for number in ("1", "2", "3", "4", "x")
    ]
    assert [len(cards) for cards in found] == [2, 2, 1, 0, 2]
    assert [code for cards in found[:3] for code in cards] == [
        codes.group(serial.code) for serial in batch.serials.order_by("pk")
    ]


def test_customers_and_visitors_see_no_codes(customer: User) -> None:
    batch = SerialBatchFactory(count=2)
    person = Client()
    person.force_login(customer, backend="allauth.account.auth_backends.AuthenticationBackend")
    for client in (Client(), person):
        for data in ({}, {"what": "show"}, {"what": "csv"}, {"what": "cards"}):
            answer = client.post(f"{BATCHES}{batch.pk}/codes/", data)
            assert answer.status_code in {302, 403}
            assert not in_the_page(answer)
    assert not OperationLog.objects.filter(action="batch.revealed").exists()


@pytest.mark.slow
def test_the_page_of_codes_costs_the_same_when_the_batch_is_long(chief: Client) -> None:
    def cost(batch: SerialBatch) -> int:
        with CaptureQueriesContext(connection) as queries:
            assert chief.post(f"{BATCHES}{batch.pk}/codes/", {"what": "show"}).status_code == 200
        return len(queries)

    cost(SerialBatchFactory(count=2))  # the session was seen, which is written once in some minutes
    assert cost(SerialBatchFactory(count=2)) == cost(SerialBatchFactory(count=60))
