"""Accounts that are closed by themselves, some time after their rental ended: warned before, in time, and once."""

from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts import services
from accounts.models import Notice, OperationLog, User
from derpmgmt.lib import queue
from serials.rentals.models import Rental
from serials.rentals.services import automatic_closing as automatic
from serials.rentals.services import renew_rental, sweep_rentals
from tests.accounts.closing import told
from tests.accounts.conftest import Answer
from tests.factories import RentalFactory, UserFactory
from tests.panel import world
from tests.panel.killing import dies_at_line

pytestmark = pytest.mark.django_db

DAY = timedelta(days=1)
SWEEPING = ("serials/rentals/services/automatic_closing.py",)


@pytest.fixture
def ended(rental: Rental) -> tuple[Rental, datetime]:
    """A rental that has ended, and when."""
    end = timezone.now() + 30 * DAY
    assert sweep_rentals(now=end + DAY)
    rental.refresh_from_db()
    assert rental.runs_until
    return rental, rental.runs_until


def pass_time(start: datetime, hours: range, *, mail_works: bool = True) -> None:
    """Sweep twice at each of these hours after `start`, and send what there is to send."""
    for hour in hours:
        now = start + timedelta(hours=hour)
        for _ in range(2):
            automatic.sweep_closing(now=now)
        if mail_works:
            Notice.objects.filter(state=Notice.State.WAITING).update(
                state=Notice.State.SENT, sent_at=now, created_at=now, address=""
            )


def test_customer_is_warned_twice_and_then_closed_when_he_does_not_renew(
    ended: tuple[Rental, datetime],
) -> None:
    rental, end = ended
    pass_time(end, range(0, 23 * 24, 12))
    assert told(rental.user) == 0
    pass_time(end, range(23 * 24, 29 * 24, 6))
    assert told(rental.user) == 1
    pass_time(end, range(29 * 24, 30 * 24, 6))
    assert told(rental.user) == 2
    rental.user.refresh_from_db()
    assert rental.user.closing_at is None
    pass_time(end, range(30 * 24, 40 * 24, 12))
    rental.user.refresh_from_db()
    assert rental.user.closing_at
    assert rental.user.closing_reason == automatic.NOT_RENEWED
    assert told(rental.user) == 2
    assert told(rental.user, "account_closed") == 1


@pytest.mark.parametrize("wakes_after_days", [23, 27, 30, 45])
def test_one_warning_comes_first_when_the_sweep_slept(
    ended: tuple[Rental, datetime], wakes_after_days: int
) -> None:
    rental, end = ended
    wake = end + wakes_after_days * DAY
    pass_time(wake, range(1))
    assert told(rental.user) == 1
    rental.user.refresh_from_db()
    assert rental.user.closing_at is None
    warning = Notice.objects.get(user=rental.user, kind="account_closing")
    closes_at = max(end + 30 * DAY, wake + DAY)
    assert abs(datetime.fromisoformat(warning.context["closes_at"]) - closes_at) < timedelta(seconds=1)
    pass_time(closes_at - DAY, range(1))
    pass_time(closes_at + timedelta(hours=1), range(1))
    rental.user.refresh_from_db()
    assert rental.user.closing_at
    assert told(rental.user, "account_closed") == 1


def test_one_closing_when_the_sweep_slept_after_the_warnings(ended: tuple[Rental, datetime]) -> None:
    rental, end = ended
    pass_time(end, range(23 * 24, 29 * 24 + 1, 6))
    pass_time(end + 37 * DAY, range(2))
    rental.user.refresh_from_db()
    assert rental.user.closing_at
    assert told(rental.user) == 2


def test_nobody_is_closed_when_his_warning_could_not_leave_yet(ended: tuple[Rental, datetime]) -> None:
    rental, end = ended
    pass_time(end, range(23 * 24, 40 * 24, 12), mail_works=False)
    rental.user.refresh_from_db()
    assert rental.user.closing_at is None
    assert told(rental.user) == 2
    pass_time(end + 40 * DAY, range(0, 30, 6))
    rental.user.refresh_from_db()
    assert rental.user.closing_at


def test_renewal_stops_the_closing_and_takes_the_waiting_warning_back(ended: tuple[Rental, datetime]) -> None:
    rental, end = ended
    pass_time(end, range(24 * 24, 24 * 24 + 1), mail_works=False)
    renew_rental(rental=rental, until=end + 60 * DAY, by=None)
    assert Notice.objects.get(user=rental.user, kind="account_closing").state == Notice.State.DROPPED
    pass_time(end, range(25 * 24, 60 * 24, 24))
    rental.user.refresh_from_db()
    assert rental.user.closing_at is None
    assert told(rental.user) == 1
    assert sweep_rentals(now=end + 61 * DAY)
    pass_time(end + 60 * DAY, range(24 * 24, 31 * 24, 12))
    rental.user.refresh_from_db()
    assert rental.user.closing_at
    assert told(rental.user) == 3


def test_closing_waits_and_admins_are_told_once_when_something_is_open(
    ended: tuple[Rental, datetime], monkeypatch: pytest.MonkeyPatch
) -> None:
    rental, end = ended
    admins = [
        UserFactory(email="a1@example.com", role=User.Role.ADMIN),
        UserFactory(email="a2@example.com", role=User.Role.SUPERADMIN),
    ]
    with monkeypatch.context() as patch:
        patch.setitem(queue._answers, "closing_reasons", [lambda _user: ["An order is open."]])
        pass_time(end, range(23 * 24, 36 * 24, 6))
    rental.user.refresh_from_db()
    assert rental.user.closing_at is None
    for admin in admins:
        notice = Notice.objects.get(user=admin, kind="account_closing_refused")
        assert notice.context["reasons"] == ["An order is open."]
        words = services.notices.render(notice)
        assert "An order is open." in words.text
        assert str(rental.user_id) in words.subject
        assert rental.user.email not in words.text
    assert told(rental.user) == 2
    assert OperationLog.objects.filter(action="user.closing_refused").count() == 1
    pass_time(end + 37 * DAY, range(1))
    rental.user.refresh_from_db()
    assert rental.user.closing_at


def test_admins_are_told_again_when_something_is_open_at_the_next_end(
    ended: tuple[Rental, datetime], answer: Answer
) -> None:
    rental, end = ended
    admin = UserFactory(email="a1@example.com", role=User.Role.ADMIN)
    answer("closing_reasons", lambda _user: ["An order is open."])
    for times in (1, 2):
        pass_time(end, range(23 * 24, 32 * 24, 6))
        assert told(admin, "account_closing_refused") == times
        renew_rental(rental=rental, until=end + 60 * DAY, by=None)
        end += 60 * DAY
        assert sweep_rentals(now=end + DAY)
    assert OperationLog.objects.filter(action="user.closing_refused").count() == 2


def test_admin_sees_why_the_closing_waits(ended: tuple[Rental, datetime], answer: Answer) -> None:
    rental, end = ended
    client = world.enter(User.Role.ADMIN, has_factor=True)
    answer("closing_reasons", lambda _user: ["An order is open."])
    pass_time(end, range(23 * 24, 31 * 24, 6))
    listed = client.get("/admin/accounts/notice/?kind=account_closing_refused")
    assert len(listed.context["cl"].result_list) == 1
    log = client.get("/admin/accounts/operationlog/?action=user.closing_refused").context["cl"].result_list
    assert [entry.target for entry in log] == [f"#{rental.user_id}"]
    assert "An order is open." in client.get(f"/admin/accounts/operationlog/{log[0].pk}/change/").text
    notice = Notice.objects.get(kind="account_closing_refused")
    page = notice.context["url"].removeprefix("http://testserver")
    assert "An order is open." in client.get(page).text


@pytest.mark.parametrize("case", ["banned", "staff"])
def test_warning_comes_when_what_stood_in_the_way_of_closing_is_gone(
    ended: tuple[Rental, datetime], case: str
) -> None:
    rental, end = ended
    if case == "banned":
        services.ban_user(user=rental.user, by=None)
    else:
        User.objects.filter(pk=rental.user_id).update(role=User.Role.DISTRIBUTOR)
    pass_time(end, range(23 * 24, 40 * 24, 12))
    services.unban_user(user=rental.user, by=None)
    User.objects.filter(pk=rental.user_id).update(role=User.Role.USER)
    pass_time(end, range(40 * 24, 44 * 24, 12))
    rental.user.refresh_from_db()
    assert told(rental.user) == 1
    assert rental.user.closing_at


def test_warning_comes_again_when_the_first_was_held_back_by_a_ban(ended: tuple[Rental, datetime]) -> None:
    rental, end = ended
    pass_time(end, range(24 * 24, 24 * 24 + 1), mail_works=False)
    services.ban_user(user=rental.user, by=None)
    services.notices.send_notice(Notice.objects.get(user=rental.user, kind="account_closing").pk)
    assert Notice.objects.get(user=rental.user, kind="account_closing").state == Notice.State.DROPPED
    services.unban_user(user=rental.user, by=None)
    pass_time(end, range(31 * 24, 31 * 24 + 1))
    rental.user.refresh_from_db()
    assert rental.user.closing_at is None, "nobody has told them"
    pass_time(end, range(32 * 24, 33 * 24, 6))
    rental.user.refresh_from_db()
    assert rental.user.closing_at


@pytest.mark.slow
def test_result_is_the_same_when_the_sweep_dies_at_any_line(monkeypatch: pytest.MonkeyPatch) -> None:
    boss, now = UserFactory(email="boss@example.com", role=User.Role.ADMIN), timezone.now()
    warned, closed, refused = (
        RentalFactory(status=Rental.Status.EXPIRED, ends_at=now - days * DAY) for days in (24, 31, 31)
    )
    automatic.sweep_closing(now=now - 2 * DAY)
    Notice.objects.update(state=Notice.State.SENT, sent_at=now - 2 * DAY, created_at=now - 2 * DAY)
    open_matters = [lambda user: ["open"] if user.pk == refused.user_id else []]
    monkeypatch.setitem(queue._answers, "closing_reasons", open_matters)

    for number in range(200):
        # Each death finds the same rows.
        with transaction.atomic():
            died = dies_at_line(number, SWEEPING, partial(automatic.sweep_closing, now=now))
            for _time in range(2):
                automatic.sweep_closing(now=now)
            assert told(warned.user) == 1, number
            for rental, is_closing in ((warned, False), (closed, True), (refused, False)):
                user = User.objects.get(pk=rental.user_id)
                assert bool(user.closing_at) is is_closing, number
                assert told(user, "account_closed") == is_closing, number
            about_it = Notice.objects.filter(user=boss, key__startswith=f"rental-{refused.pk}-")
            assert about_it.count() == 1, number
            transaction.set_rollback(True)
        if not died:
            break
    assert number > 60


def sweep_queries(now: datetime) -> int:
    with CaptureQueriesContext(connection) as queries:
        automatic.sweep_closing(now=now)
    return len(queries)


def test_sweep_costs_what_is_due_when_many_others_are_not(
    monkeypatch: pytest.MonkeyPatch, django_assert_max_num_queries: Any
) -> None:
    UserFactory(email="boss@example.com", role=User.Role.ADMIN)
    now = timezone.now()
    refused: set[int] = set()
    monkeypatch.setitem(
        queue._answers, "closing_reasons", [lambda user: ["open"] if user.pk in refused else []]
    )

    def add() -> None:
        """One more of everything that the sweep has looked at and has to wait for."""
        RentalFactory(status=Rental.Status.EXPIRED, ends_at=now - 10 * DAY)  # not to be warned yet
        RentalFactory(status=Rental.Status.EXPIRED, ends_at=now - 25 * DAY)  # warned once
        RentalFactory(status=Rental.Status.EXPIRED, ends_at=now - 29.5 * DAY)  # warned twice
        services.ban_user(
            user=RentalFactory(status=Rental.Status.EXPIRED, ends_at=now - 40 * DAY).user, by=None
        )
        refused.add(RentalFactory(status=Rental.Status.EXPIRED, ends_at=now - 30 * DAY).user_id)

    add()
    pass_time(now - 2 * DAY, range(0, 48, 6))
    pass_time(now, range(1))
    assert told(User.objects.get(pk=refused.pop()), "account_closing") > 0
    soon = now + timedelta(minutes=10)
    few = sweep_queries(soon)
    for _ in range(5):
        add()
    pass_time(now - 2 * DAY, range(0, 48, 6))
    pass_time(now, range(1))
    assert not any(automatic.due_rentals(soon))
    assert sweep_queries(soon) == few <= 2
    late = RentalFactory(status=Rental.Status.EXPIRED, ends_at=now - 26 * DAY)
    assert [rental for due in automatic.due_rentals(soon) for rental in due] == [late]
    if connection.vendor == "sqlite":
        for due in automatic.due_rentals(soon):
            assert "USING INDEX" in (plan := due.explain()), plan
            assert "closing_due_at" in plan


@pytest.mark.parametrize("case", ["banned", "staff", "off", "paused"])
def test_nobody_is_closed_by_itself_when_it_is_not_for_him(
    ended: tuple[Rental, datetime], case: str, settings: Any
) -> None:
    rental, end = ended
    if case == "banned":
        services.ban_user(user=rental.user, by=None)
    elif case == "staff":
        services.change_user(user=rental.user, by=None, username="staff", language="en", role=User.Role.ADMIN)
    elif case == "off":
        settings.CLOSE_AFTER_DAYS = 0
    else:
        Rental.objects.filter(pk=rental.pk).update(status=Rental.Status.PAUSED, paused_at=end - DAY)
    pass_time(end, range(20 * 24, 60 * 24, 24))
    rental.user.refresh_from_db()
    assert rental.user.closing_at is None
    assert told(rental.user) == 0


@pytest.mark.parametrize("language", ["en", "zh-hans"])
@pytest.mark.parametrize("kind", ["account_closing", "account_closing_refused"])
def test_texts_are_whole_when_rendered(kind: str, language: str) -> None:
    now = timezone.now()
    context = {
        "account": 7,
        "reasons": ["<b>"],
        "closes_at": now,
        "ends_at": now,
        "url": "http://testserver/x",
    }
    user = UserFactory()
    services.notify(user=user, kind=kind, key="k", context=context, is_mail_only=True)
    notice = Notice.objects.get()
    notice.language = language
    words = services.notices.render(notice)
    assert words.subject
    assert "http://testserver/x" in words.text
    assert "http://testserver/x" in words.html
    assert "<b>" not in words.html
