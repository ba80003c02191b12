"""Renewal, pause, the end and closing of a rental: what a person was sold is neither lost nor given twice."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
import time_machine
from django.db import connection, connections
from django.test.utils import CaptureQueriesContext
from django.utils import timezone, translation

from accounts.models import Notice, OperationLog, User
from accounts.services import NotAllowed, close_account
from accounts.services.notices import render
from derpmgmt.lib.env import BASE_DIR
from serials.numbers import services as serials
from serials.numbers.models import SerialNumber
from serials.rentals import services as rentals
from serials.rentals.models import Redemption, Rental
from serials.rentals.services import life
from tests.factories import RedeemedRentalFactory, RentalFactory, SerialNumberFactory, UserFactory

DAY = timedelta(days=1)


@pytest.fixture
def rental(customer: User) -> Rental:
    """Thirty days that began now."""
    return RedeemedRentalFactory(user=customer)


def fresh(rental: Rental) -> Rental:
    return Rental.objects.get(pk=rental.pk)


def end_of(rental: Rental) -> datetime:
    ends_at = fresh(rental).ends_at
    assert ends_at is not None
    return ends_at


@pytest.fixture
def admin(db: None) -> User:
    return UserFactory(email="admin@example.com", role=User.Role.ADMIN)


# Renewal


def test_a_span_with_the_last_entitlement_follows_when_an_admin_renews(rental: Rental, admin: User) -> None:
    serials.redeem_serial(code=SerialNumberFactory(device_limit=7).code, user=rental.user, by=None)
    old, until = end_of(rental), end_of(rental) + 10 * DAY
    redemption = rentals.renew_rental(rental=rental, until=until, by=admin, note="a gift")
    last = rental.spans.last()
    assert last is not None
    assert (last.starts_at, last.ends_at, last.device_limit) == (old, until, 7)
    assert (redemption.kind, redemption.by, redemption.note) == ("renewal", admin, "a gift")
    assert (redemption.old_ends_at, redemption.new_ends_at) == (old, until)
    assert redemption.granted_seconds == 10 * 86400
    assert end_of(rental) == until
    assert fresh(rental).runs_until == until


def test_nothing_is_shortened_or_doubled_when_the_chosen_end_is_not_later(
    rental: Rental, admin: User
) -> None:
    before = end_of(rental)
    for until in (before, before - DAY, timezone.now() - DAY):
        with pytest.raises(rentals.NotLater):
            rentals.renew_rental(rental=rental, until=until, by=admin)
    rentals.renew_rental(rental=rental, until=before + DAY, by=admin)
    with pytest.raises(rentals.NotLater):
        rentals.renew_rental(rental=rental, until=before + DAY, by=admin)
    assert rental.redemptions.count() == 2


def test_a_renewal_is_refused_when_it_cannot_be_meant(rental: Rental, admin: User, customer: User) -> None:
    with pytest.raises(rentals.TooFar):
        rentals.renew_rental(rental=rental, until=timezone.now() + 4000 * DAY, by=admin)
    with pytest.raises(NotAllowed):
        rentals.renew_rental(rental=rental, until=end_of(rental) + DAY, by=customer)
    never = RentalFactory(never_begun=True)
    with pytest.raises(rentals.NothingToRenew):
        rentals.renew_rental(rental=never, until=timezone.now() + DAY, by=admin)
    rentals.close_rental(rental=rental, by=admin)
    with pytest.raises(rentals.RentalClosed):
        rentals.renew_rental(rental=rental, until=end_of(rental) + DAY, by=admin)


def test_time_starts_now_and_the_wait_is_counted_when_an_ended_rental_is_renewed(
    rental: Rental, admin: User
) -> None:
    Rental.objects.filter(pk=rental.pk).update(waiting_since=None)
    with time_machine.travel(end_of(rental) + 5 * DAY, tick=False):
        now = timezone.now()
        rentals.sweep_rentals(now=now)
        assert fresh(rental).status == "expired"
        rentals.renew_rental(rental=rental, until=now + 2 * DAY, by=admin)
        renewed = fresh(rental)
        assert renewed.status == "active"
        assert renewed.waiting_since == now
        last = renewed.spans.last()
        assert last is not None
        assert (last.starts_at, last.ends_at) == (now, now + 2 * DAY)


def test_a_paid_order_gives_its_own_terms_and_is_a_redemption(rental: Rental) -> None:
    terms = rentals.Terms(5, 10**9, None, "stop", frozenset(), upload_quota_bytes=7)
    redemption = life.grant_days(
        user=rental.user, days=90, terms=terms, kind=Redemption.Kind.ORDER, by=rental.user, note="order 7"
    )
    span = redemption.spans.get()
    assert rentals.Terms.of(span) == terms
    assert (redemption.kind, redemption.note, span.ends_at - span.starts_at) == ("order", "order 7", 90 * DAY)


@pytest.mark.parametrize(
    ("kind", "said", "unsaid"), [("serial", "序列号已激活", "订单"), ("order", "订单已付款", "序列号")]
)
def test_the_first_time_is_told_as_what_it_was(customer: User, kind: str, said: str, unsaid: str) -> None:
    terms = rentals.Terms(5, 10**9, None, "stop", frozenset())
    life.grant_days(user=customer, days=90, terms=terms, kind=Redemption.Kind(kind), by=None)
    notice = Notice.objects.get(user=customer)
    words = render(notice)
    assert said in words.text
    assert said in words.html
    with translation.override("zh-hans"):
        assert unsaid not in f"{notice.kind_text} {words.subject} {words.text} {words.html}"
        # What its name and subject say is true of both.
        assert "序列号" not in notice.kind_text + words.subject


def test_each_way_of_more_time_sends_one_mail(rental: Rental, admin: User) -> None:
    rentals.renew_rental(rental=rental, until=end_of(rental) + DAY, by=admin)
    with pytest.raises(rentals.NotLater):
        rentals.renew_rental(rental=rental, until=end_of(rental), by=admin)
    rentals.pause_rental(rental=rental, by=admin, reason="asked for")
    rentals.pause_rental(rental=rental, by=admin)
    rentals.resume_rental(rental=rental, by=admin)
    rentals.resume_rental(rental=rental, by=admin)
    sent = Notice.objects.filter(user=rental.user).order_by("pk").values_list("kind", flat=True)
    assert list(sent) == ["rental_redeemed", "rental_renewed", "rental_paused", "rental_resumed"]


@pytest.mark.parametrize("language", ["en", "zh-hans"])
def test_every_notice_can_be_read(rental: Rental, admin: User, language: str) -> None:
    User.objects.filter(pk=rental.user_id).update(language=language)
    rental = Rental.objects.get(pk=rental.pk)
    rentals.renew_rental(rental=rental, until=end_of(rental) + DAY, by=admin)
    rentals.pause_rental(rental=rental, by=admin, reason="<asked> & for")
    rentals.resume_rental(rental=rental, by=admin)
    for notice in Notice.objects.filter(user=rental.user):
        words = render(notice)
        assert notice.context["url"] in words.text
        assert notice.context["url"] in words.html
        assert "{" not in words.subject + words.text
        if notice.kind == "rental_paused":
            assert "<asked> & for" in words.text
            assert "&lt;asked&gt; &amp; for" in words.html
        else:
            assert (
                f"{timezone.localtime(datetime.fromisoformat(notice.context['ends_at'])):%Y-%m-%d}"
                in words.text
            )


def test_sentences_of_a_notice_stand_in_paragraphs_of_their_own(customer: User) -> None:
    """Chinese has no space between sentences, so none may be joined by one."""
    now = timezone.now()
    for runs_until in (now, now + DAY):
        context = {"ends_at": now, "runs_until": runs_until, "url": "http://testserver/"}
        notice = Notice(user=customer, kind="rental_ended", language="zh-hans", context=context)
        words = render(notice)
        assert words.text.count("。\n") == 3
        assert "。 " not in words.text + words.html
    between = re.compile(r"%\} +\{% (?:translate|blocktranslate|if)")
    texts = [path for path in (BASE_DIR / "templates/notices").iterdir() if "_message" in path.name]
    assert len(texts) > 20
    assert [
        path.name for path in texts if between.search(path.read_text().partition("{% block content")[2])
    ] == []


# Grace


def test_everything_runs_on_and_then_ends_when_there_is_a_grace(customer: User) -> None:
    rental = RedeemedRentalFactory(user=customer, grace_days=3)
    end = end_of(rental)
    assert fresh(rental).runs_until == end + 3 * DAY
    in_grace, over = end + 2 * DAY, end + 3 * DAY
    assert rentals.sweep_rentals(now=in_grace) == 0
    assert fresh(rental).is_entitled(in_grace)
    assert rentals.is_paid(fresh(rental), in_grace)
    assert rentals.current_span(fresh(rental), in_grace) == rental.spans.last()
    assert not fresh(rental).is_entitled(over)
    assert not rentals.is_paid(fresh(rental), over)
    assert rentals.sweep_rentals(now=over) == 1


def test_the_panels_grace_counts_unless_the_batch_says_otherwise(customer: User, settings: Any) -> None:
    settings.GRACE_DAYS = 2
    rental = RedeemedRentalFactory(user=customer, days=5)
    assert fresh(rental).runs_until == end_of(rental) + 2 * DAY
    serials.redeem_serial(code=SerialNumberFactory(days=5, grace_days=0).code, user=customer, by=None)
    assert fresh(rental).runs_until == end_of(rental)


def test_the_grace_is_a_gift_and_moves_no_end_when_it_is_renewed_within(customer: User, admin: User) -> None:
    rental = RedeemedRentalFactory(user=customer, grace_days=3)
    with time_machine.travel(end_of(rental) + DAY, tick=False):
        now = timezone.now()
        rentals.renew_rental(rental=rental, until=now + 4 * DAY, by=admin)
        last = rental.spans.last()
        assert last is not None
        assert last.starts_at == now
        assert fresh(rental).runs_until == now + 7 * DAY


# Pause and resume


def test_time_stands_still_while_paused(rental: Rental, admin: User) -> None:
    left = end_of(rental) - timezone.now().replace(microsecond=0)
    Rental.objects.filter(pk=rental.pk).update(waiting_since=timezone.now() - timedelta(seconds=40))
    waiting = fresh(rental).waiting_since
    assert rentals.pause_rental(rental=rental, by=admin, reason="asked for")
    assert not rentals.pause_rental(rental=rental, by=admin)
    paused = fresh(rental)
    assert (paused.status, paused.is_entitled(timezone.now())) == ("paused", False)
    assert paused.paused_at is not None
    with time_machine.travel(end_of(rental) + 100 * DAY, tick=False):
        now = timezone.now()
        assert rentals.sweep_rentals(now=now) == 0
        redemption = rentals.resume_rental(rental=rental, by=admin)
        assert rentals.resume_rental(rental=rental, by=admin) is None
        resumed = fresh(rental)
        assert redemption is not None
        assert (redemption.kind, redemption.granted_seconds) == ("resumed", 0)
        assert abs(end_of(rental) - now - left) <= timedelta(seconds=2)
        assert resumed.waiting_since is not None
        assert waiting is not None
        assert now - resumed.waiting_since == paused.paused_at - waiting
        assert (resumed.status, resumed.is_entitled(now)) == ("active", True)


def test_the_wait_for_the_returning_relays_is_counted_when_none_runs(rental: Rental, admin: User) -> None:
    Rental.objects.filter(pk=rental.pk).update(waiting_since=None)
    rentals.pause_rental(rental=rental, by=admin)
    with time_machine.travel(timezone.now() + DAY, tick=False):
        rentals.resume_rental(rental=rental, by=admin)
        assert fresh(rental).waiting_since == timezone.now().replace(microsecond=0)


def test_a_pause_is_refused_when_no_time_is_left(rental: Rental, admin: User, customer: User) -> None:
    with pytest.raises(NotAllowed):
        rentals.pause_rental(rental=rental, by=customer)
    with time_machine.travel(end_of(rental), tick=False), pytest.raises(rentals.NothingToPause):
        rentals.pause_rental(rental=rental, by=admin)


# The end


def test_an_end_is_recorded_once_when_the_sweep_comes_late_and_twice(
    rental: Rental, announced: list[tuple[str, int]]
) -> None:
    now = end_of(rental) + 7 * DAY
    announced.clear()
    assert rentals.sweep_rentals(now=now) == 1
    assert rentals.sweep_rentals(now=now) == 0
    assert fresh(rental).status == "expired"
    assert OperationLog.objects.filter(action="rental.expired").count() == 1
    assert announced == [("rental_changed", rental.pk)]


def test_an_end_is_left_alone_when_it_moved_while_the_sweep_was_looking(
    rental: Rental, admin: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = end_of(rental) + DAY
    expire = life.ENDS.do

    def renew_first(due: Sequence[int], at: datetime) -> int:
        rentals.renew_rental(rental=rental, until=now + 10 * DAY, by=admin)
        return expire(due, at)

    monkeypatch.setattr(life, "ENDS", replace(life.ENDS, do=renew_first))
    with time_machine.travel(now, tick=False):
        assert rentals.sweep_rentals(now=now) == 0
    assert fresh(rental).status == "active"


def test_many_ends_are_recorded_in_one_sweep_with_queries_for_those_alone(db: None) -> None:
    now = timezone.now()
    users = User.objects.bulk_create(
        User(email=f"u{n}@example.com", username=f"u{n}", password="!") for n in range(260)
    )
    Rental.objects.bulk_create(
        Rental(user=user, ends_at=now - DAY, runs_until=now - DAY if n < 250 else now + DAY)
        for n, user in enumerate(users)
    )
    assert rentals.sweep_rentals(now=now) == 250
    assert Rental.objects.filter(status="active").count() == 10
    with CaptureQueriesContext(connection) as queries:
        assert rentals.sweep_rentals(now=now) == 0
    assert len(queries) == 1


def _kill_before(name: str, count: int) -> None:
    """Kill this process when `life`'s function `name`, or what the work `ENDS` does, is called for the `count`th time."""
    real, calls = life.ENDS.do if name == "ENDS" else getattr(life, name), 0

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)

    setattr(life, name, replace(life.ENDS, do=call) if name == "ENDS" else call)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("name", ["ENDS", "request_plans", "log_lines"])
@pytest.mark.parametrize("count", [1, 2])
def test_the_same_comes_of_it_when_the_sweep_is_killed_at_any_point(
    transactional_db: None, name: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = timezone.now()
    for n in range(4):
        user = UserFactory(email=f"u{n}@example.com")
        RentalFactory(user=user, ends_at=now - DAY)
    monkeypatch.setattr(life, "ENDS", replace(life.ENDS, together=2))
    connections.close_all()
    child = os.fork()
    if child == 0:
        try:
            _kill_before(name, count)
            rentals.sweep_rentals(now=now)
        finally:
            os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    rentals.sweep_rentals(now=now)
    assert set(Rental.objects.values_list("status", flat=True)) == {"expired"}
    assert OperationLog.objects.filter(action="rental.expired").count() == 4


@pytest.mark.django_db(transaction=True)
def test_each_end_is_recorded_once_when_sweeps_run_at_the_same_time(transactional_db: None) -> None:
    now = timezone.now()
    for n in range(12):
        user = UserFactory(email=f"u{n}@example.com")
        RentalFactory(user=user, ends_at=now - DAY)

    def sweep(_number: int) -> int:
        try:
            return rentals.sweep_rentals(now=now)
        finally:
            connection.close()

    with ThreadPoolExecutor(3) as pool:
        assert sum(pool.map(sweep, range(3))) == 12
    assert OperationLog.objects.filter(action="rental.expired").count() == 12


def test_only_the_due_are_looked_at(rental: Rental) -> None:
    """Both sweeps read what is due from an index, whatever else there is."""
    for rows in (Rental.objects.due(timezone.now()), Rental.objects.plan_due(timezone.now())):
        plan = rows.values_list("pk").explain()
        assert "SCAN serials_rental" not in plan
        assert "ALL" not in plan


# Closing


def test_a_closed_rental_keeps_its_history_and_takes_no_more_time(
    rental: Rental, admin: User, announced: list[tuple[str, int]]
) -> None:
    assert rentals.close_rental(rental=rental, by=admin)
    assert not rentals.close_rental(rental=rental, by=admin)
    assert announced == [("rental_changed", rental.pk)]
    closed = fresh(rental)
    assert (closed.status, closed.is_entitled(timezone.now())) == ("closed", False)
    assert closed.spans.count() == closed.redemptions.count() == 1
    assert closed.ends_at is not None
    with pytest.raises(rentals.AccountBarred):
        serials.redeem_serial(code=SerialNumberFactory().code, user=rental.user, by=None)
    for act in (rentals.pause_rental, rentals.resume_rental):
        with pytest.raises(rentals.RentalClosed):
            act(rental=rental, by=admin)


def test_nothing_is_done_with_the_rental_of_an_account_that_is_being_closed(
    rental: Rental, admin: User
) -> None:
    rentals.pause_rental(rental=rental, by=admin)
    close_account(user=rental.user, by=None)
    before, told = rental.redemptions.count(), Notice.objects.count()
    serial = SerialNumberFactory()
    until = timezone.now() + 60 * DAY
    acts: list[Callable[[], Any]] = [
        lambda: serials.redeem_serial(code=serial.code, user=rental.user, by=None),
        lambda: rentals.renew_rental(rental=rental, until=until, by=admin),
        lambda: rentals.pause_rental(rental=rental, by=admin),
        lambda: rentals.resume_rental(rental=rental, by=admin),
    ]
    for act in acts:
        with pytest.raises(rentals.AccountClosed) as refused, translation.override("en"):
            act()
        assert refused.value.code == "account_closed"
        with translation.override("en"):
            assert "closed or is being closed" in str(refused.value)
    assert SerialNumber.objects.get(pk=serial.pk).status == "unused"
    assert (rental.redemptions.count(), Notice.objects.count()) == (before, told)
    assert fresh(rental).paused_at is not None
