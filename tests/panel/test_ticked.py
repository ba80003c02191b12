"""What is chosen for ticked rows of a list: a page says what will happen to whom, and one click does it, row by row."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib import admin
from django.db import connection
from django.db.models import Model
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import translation

from accounts import services as accounts
from accounts.acts import Act
from accounts.alerts.models import Alert
from accounts.models import Notice, OperationLog, User
from accounts.ticked import TickedMixin
from acl.devices.models import Device
from fleet import services as fleet
from fleet.models import Server
from serials.numbers.models import SerialBatch, SerialNumber
from serials.rentals.models import Rental
from tests.accounts.ticking import confirm, do, said, tick
from tests.factories import (
    AlertFactory,
    DeviceFactory,
    SerialBatchFactory,
    ServerFactory,
    UserFactory,
    WholeRentalFactory,
)
from tests.panel import world
from tests.panel.staffed import boss as boss
from tests.panel.staffed import rental as rental

pytestmark = pytest.mark.django_db

USERS = "/admin/accounts/user/"


def people(count: int, **given: Any) -> list[User]:
    offset = User.objects.count()
    return [
        UserFactory(email=f"p{offset + number:02}@example.com", role=User.Role.USER, **given)
        for number in range(count)
    ]


def the_acts() -> Iterator[tuple[type[Model], Act]]:
    for model, page in admin.site._registry.items():
        if isinstance(page, TickedMixin):
            yield from ((model, act) for act in page.acts if act.ticked)


def ready(rental: Rental, model: type[Model], verb: str) -> list[Any]:
    """Two rows that the act fits."""
    if model is User:
        users = people(2)
        for user in users if verb == "unban" else ():
            accounts.ban_user(user=user, by=None)
        return users
    if model is Notice:
        rows = list(Notice.objects.filter(user=rental.user)[:1]) + list(
            WholeRentalFactory().user.notices.all()[:1]
        )
        Notice.objects.filter(pk__in=[row.pk for row in rows]).update(state=Notice.State.FAILED)
        return rows
    if model is Alert:
        return AlertFactory.create_batch(2, values={"said": {"en": ["Backup failed", ""]}})
    if model is SerialBatch:
        return SerialBatchFactory.create_batch(2, is_paid=verb == "mark-unpaid")
    if model is SerialNumber:
        return list(SerialBatchFactory(count=2).serials.all())
    if model is Server:
        servers = ServerFactory.create_batch(2, whole=True)
        for server in servers if verb == "end-maintenance" else ():
            fleet.start_maintenance(server=server, by=None)
        return servers
    assert model is Device
    wanted = Device.Status.PENDING if verb == "approve" else Device.Status.APPROVED
    other = WholeRentalFactory()
    world.add_devices(other)
    return [one.devices.filter(status=wanted).first() for one in (rental, other)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "act"), list(the_acts()), ids=[f"{model.__name__}-{act.verb}" for model, act in the_acts()]
)
def test_each_says_what_it_will_do_to_whom_does_it_once_and_says_what_happened(
    boss: Client, rental: Rental, model: type[Model], act: Act
) -> None:
    rows = ready(rental, model, act.verb)
    typed = {"note": "cleaned up"} if model is Alert else {}
    url = f"/admin/{model._meta.app_label}/{model._meta.model_name}/"
    before = OperationLog.objects.count()
    page = tick(boss, url, act.verb, rows)
    assert page.status_code == 200
    assert OperationLog.objects.count() == before
    text = page.content.decode()
    assert act.ticked
    with translation.override("en"):
        assert f"<h1>{act.ticked.label}</h1>" in text
        assert all(act.ticked.name(row) in text for row in rows)
    assert "2" in " ".join(page.context["explanation"])

    (sentence,) = said(confirm(boss, page, **typed))
    assert sentence.startswith(("2 ", "The bans of 2 "))
    assert all(not act.fits(row) for row in model._default_manager.filter(pk__in=[row.pk for row in rows]))
    done = OperationLog.objects.count()
    assert done >= before + 2

    # Another click, and the page's own reload.
    (again,) = said(confirm(boss, page, **typed))
    assert again.startswith("For 2 rows nothing was left to do:")
    assert OperationLog.objects.count() == done
    assert "Nothing can be done with any of the rows" in boss.get(page.redirect_chain[-1][0]).content.decode()


def test_the_first_ten_are_named_and_how_many_more_there_are(boss: Client) -> None:
    users = people(23)
    page = tick(boss, f"{USERS}?o=1", "ban", users)
    text = page.content.decode()
    assert [user.email in text for user in users] == [True] * 10 + [False] * 13
    assert "and 13 more" in text
    assert "23 people are signed out" in text
    answer = confirm(boss, page)
    (sentence,) = said(answer)
    # What happened names whom it happened to, as the page before did.
    named = "\n".join(user.email for user in users[:10])
    assert sentence == f"23 accounts are banned.\n{named}\nand 13 more"
    assert answer.redirect_chain[-1][0] == f"{USERS}?o=1"


def test_what_cannot_be_done_is_left_out_with_its_reason_and_the_others_are_done(
    boss: Client, rental: Rental
) -> None:
    myself = User.objects.get(pk=boss.session["_auth_user_id"])
    banned, fine = people(2)
    accounts.ban_user(user=banned, by=None)
    page = tick(boss, USERS, "ban", [myself, banned, fine])
    assert page.context["rows"] == [str(fine.pk)]
    text = page.content.decode()
    assert f"{banned} is banned already." in text
    assert f"{myself}: You may not do this here." in text
    assert said(confirm(boss, page)) == [f"1 account is banned.\n{fine}"]
    assert set(User.objects.filter(banned_at__isnull=False)) == {banned, fine}


def test_rows_that_changed_since_the_page_are_said_by_name(boss: Client, rental: Rental) -> None:
    stale, gone, fine = people(3)
    page = tick(boss, USERS, "ban", [stale, gone, fine])
    accounts.ban_user(user=stale, by=None)
    User.objects.filter(pk=gone.pk).delete()
    assert said(confirm(boss, page)) == [
        f"1 account is banned.\n{fine}",
        f"For 1 row nothing was left to do:\n{stale} is banned already.",
        "1 row is no longer there.",
    ]


def test_what_was_not_on_the_page_is_not_done_though_it_fits_by_now(boss: Client) -> None:
    banned, fine = people(2)
    accounts.ban_user(user=banned, by=None)
    page = tick(boss, USERS, "ban", [banned, fine])
    accounts.unban_user(user=banned, by=None)
    confirm(boss, page)
    assert set(User.objects.filter(banned_at__isnull=False)) == {fine}


def test_what_the_service_refuses_is_said_by_name_and_the_others_are_done(
    boss: Client, rental: Rental
) -> None:
    rental.spans.update(device_limit=rental.devices.filter(status=Device.Status.APPROVED).count() + 1)
    waiting = [
        DeviceFactory(
            rental=rental, node_key=f"{number:064x}", status=Device.Status.PENDING, name=f"d{number}"
        )
        for number in range(3)
    ]
    done, *refused = said(do(boss, "/admin/acl/device/", "approve", waiting))
    assert done == f"1 device is approved.\n{rental} · {waiting[0]}"
    (lines,) = refused
    assert lines.startswith("2 rows were refused:")
    for device in waiting[1:]:
        assert f"{rental} · {device}: The rental allows" in lines
    assert f"{rental} · {waiting[0]}" not in lines


def test_names_are_shown_as_text(boss: Client) -> None:
    batches = SerialBatchFactory.create_batch(2, name="<b>bold</b>")
    page = tick(boss, "/admin/serials/serialbatch/", "mark-unpaid", batches)
    answer = confirm(boss, page)
    again = confirm(boss, page)
    for one in (page, answer, again):
        assert "<b>bold" not in one.content.decode()
    assert "&lt;b&gt;bold" in again.content.decode()


def test_it_needs_the_right(boss: Client, rental: Rental) -> None:
    chief = User.objects.get(pk=boss.session["_auth_user_id"])
    staff = world.enter(User.Role.ADMIN, has_factor=True)
    User.objects.update(language="en")
    batch = SerialBatchFactory(is_paid=False)
    url = "/admin/serials/serialbatch/ticked/mark-paid/do/"
    assert staff.get(f"{url}?rows={batch.pk}").status_code == 403
    assert staff.post(url, {"row": [batch.pk]}).status_code == 403
    assert "mark-paid" not in staff.get("/admin/serials/serialbatch/").content.decode()
    ban = f"{USERS}ticked/ban/do/"
    assert said(staff.post(ban, {"row": [chief.pk]}, follow=True)) == [
        f"1 row was refused:\n{chief}: You may not do this here."
    ]
    customer = world.sign_in(rental.user)
    assert customer.post(ban, {"row": [rental.user_id]}).status_code in {302, 403}
    assert not User.objects.filter(banned_at__isnull=False).exists()
    batch.refresh_from_db()
    assert not batch.is_paid


@pytest.mark.parametrize("rows", ["", "x", "1e9", "-1", "9" * 30, "٣", "999999,1.5", ","])
def test_nonsense_in_the_address_does_nothing(boss: Client, rows: str) -> None:
    url = f"{USERS}ticked/ban/do/"
    assert "Nothing can be done with any of the rows" in boss.get(url, {"rows": rows}).content.decode()
    (sentence,) = said(boss.post(url, {"row": rows}, follow=True))
    assert sentence in {"No row was ticked, and nothing was done.", "1 row is no longer there."}
    assert boss.get(f"{USERS}ticked/nonsense/do/").status_code == 404
    assert boss.get(f"{USERS}ticked/close/do/").status_code == 404


@pytest.mark.slow
def test_the_page_costs_the_same_for_many_rows(boss: Client, rental: Rental) -> None:
    def cost(url: str, pks: list[int]) -> int:
        address = f"{url}?rows={','.join(map(str, pks))}"
        boss.get(address)
        with CaptureQueriesContext(connection) as queries:
            assert boss.get(address).status_code == 200
        return len(queries)

    world.add_devices(rental, 8)
    for _number in range(4):
        WholeRentalFactory()
    rows: dict[str, Callable[[], list[int]]] = {
        "/admin/acl/device/ticked/approve/do/": lambda: list(Device.objects.values_list("pk", flat=True)),
        "/admin/accounts/notice/ticked/again/do/": lambda: list(Notice.objects.values_list("pk", flat=True)),
        "/admin/fleet/server/ticked/check/do/": lambda: list(Server.objects.values_list("pk", flat=True)),
        f"{USERS}ticked/ban/do/": lambda: list(User.objects.values_list("pk", flat=True)),
        "/admin/serials/serialnumber/ticked/recall/do/": lambda: list(
            SerialNumber.objects.values_list("pk", flat=True)
        ),
    }
    for url, pks in rows.items():
        found = pks()
        assert len(found) >= 4, url
        assert cost(url, found[:2]) == cost(url, found), url
