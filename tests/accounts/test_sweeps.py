"""Sweeps of which one row's work raises: the others have their turn, and it comes again later and after them."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
import time_machine
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts import jobs, services
from accounts.models import Notice, PutOff, User
from accounts.services import closing
from accounts.sweeps import RETRY, sweep
from accounts.works import WORKS, Work
from tests.factories import UserFactory

pytestmark = pytest.mark.django_db

NOW = datetime.fromisoformat("2026-03-02T12:00:00+08:00")


class Marker:
    """Marks the rows that it is given, and raises for those that are named in `broken`."""

    def __init__(self, *broken: int) -> None:
        self.broken = set(broken)
        self.turns: list[int] = []

    @transaction.atomic
    def __call__(self, pks: Sequence[int]) -> int:
        User.objects.filter(pk__in=pks).update(closing_reason="done")
        self.turns += pks
        if self.broken & set(pks):
            raise ValueError("it cannot be read")
        return len(pks)

    def look(self, now: datetime, **limits: int) -> list[int]:
        """A sweep over those that are not marked; whose turn came, in order."""
        self.turns = []
        sweep(marking(lambda pks, _now: self(pks), **limits), now=now)
        return self.turns


def marking(do: Callable[[Sequence[int], datetime], int], **given: Any) -> Work:
    def due(_now: datetime) -> Any:
        return User.objects.filter(closing_reason="").order_by("pk")

    return Work(
        **{"name": "marking", "title": "Marking", "model": User, "whose": "email", "due": due, "do": do}
        | given
    )


@pytest.fixture
def pks() -> list[int]:
    return [user.pk for user in UserFactory.create_batch(5)]


@pytest.fixture
def declared(monkeypatch: pytest.MonkeyPatch) -> Callable[[Marker], None]:
    """Has the panel know the marker's work."""

    def declare(marker: Marker) -> None:
        monkeypatch.setitem(WORKS, "marking", marking(lambda pks, _now: marker(pks)))

    return declare


def marked() -> set[int]:
    return set(User.objects.filter(closing_reason="done").values_list("pk", flat=True))


@pytest.mark.parametrize("together", [1, 2, 10])
def test_one_that_raises_holds_nobody_up(
    pks: list[int], together: int, caplog: pytest.LogCaptureFixture
) -> None:
    first, *others = pks
    work = Marker(first)
    work.look(NOW, together=together)
    assert marked() == set(others)
    assert [record.getMessage() for record in caplog.records] == [f"marking: row {first} is put off"]
    assert "it cannot be read" in caplog.text
    row = PutOff.objects.get()
    assert (row.work, row.row, row.failures, row.failure_code) == ("marking", first, 1, "internal")
    assert (row.exception, row.since, row.failed_at) == ("ValueError", NOW, NOW)


def test_it_comes_again_later_each_time_and_no_more_once_it_went_well(pks: list[int]) -> None:
    first, *_others = pks
    work, now = Marker(first), NOW
    assert work.look(now) == pks
    for failures in range(1, 12):
        pause = min(timedelta(seconds=10) * 2 ** (failures - 1), RETRY.longest)
        assert work.look(now + pause - timedelta(seconds=1)) == []
        now += pause
        assert work.look(now) == [first]
    work.broken.clear()
    assert work.look(now + RETRY.longest) == [first]
    assert marked() == set(pks)
    assert not PutOff.objects.exists()


def test_it_never_stands_before_the_others(pks: list[int]) -> None:
    first, *others = pks
    work = Marker(first)
    assert work.look(NOW, limit=1) == [first]
    assert work.look(NOW, limit=1) == [others[0]]
    later = NOW + RETRY.longest
    assert work.look(later, limit=2) == [*others[1:3], first]


def test_many_that_always_raise_leave_the_others_their_turn(pks: list[int]) -> None:
    *broken, last = pks
    work = Marker(*broken)
    for minute in range(10):
        work.look(NOW + timedelta(minutes=minute), limit=2)
    assert marked() == {last}


def test_it_is_not_forgotten_when_the_clock_is_set_back(pks: list[int]) -> None:
    work = Marker(pks[0])
    work.look(NOW)
    assert work.look(NOW - timedelta(days=30)) == [pks[0]]


def test_what_is_due_no_more_is_forgotten(pks: list[int], declared: Callable[[Marker], None]) -> None:
    first, second, *_others = pks
    marker = Marker(first, second)
    declared(marker)
    marker.look(NOW)
    User.objects.filter(pk=first).update(closing_reason="otherwise")
    jobs.forget_settled()
    assert PutOff.objects.get().row == second
    PutOff.objects.update(work="of another version")
    jobs.forget_settled()
    assert not PutOff.objects.exists()


def test_work_of_another_name_is_not_put_off(pks: list[int]) -> None:
    Marker(pks[0]).look(NOW)
    turns: list[int] = []

    def note(part: Sequence[int], _now: datetime) -> int:
        turns.extend(part)
        return 0

    sweep(marking(note, name="something else", due=lambda _now: User.objects.filter(pk=pks[0])), now=NOW)
    assert turns == [pks[0]]


def test_nothing_due_costs_one_query(pks: list[int]) -> None:
    Marker(pks[0]).look(NOW)
    with CaptureQueriesContext(connection) as queries:
        sweep(marking(lambda _pks, _now: 0, due=lambda _now: User.objects.filter(pk=0)), now=NOW)
    assert len(queries) == 1


# The sweeps of this room


def test_accounts_are_closed_behind_one_that_cannot_be(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bad, other = UserFactory(), UserFactory(email="li@example.com")
    for user in (bad, other):
        services.close_account(user=user, by=None)
    Notice.objects.update(state=Notice.State.SENT)
    left = closing.closing_left

    def cannot(user: User) -> Any:
        if user == bad:
            raise ValueError("broken")
        return left(user)

    monkeypatch.setattr(closing, "closing_left", cannot)
    jobs.sweep_closing()
    assert set(User.objects.filter(closed_at__isnull=False)) == {other}
    assert f"row {bad.pk} is put off" in caplog.text
    monkeypatch.undo()
    jobs.sweep_closing()
    assert User.objects.closing().get() == bad
    with time_machine.travel(timezone.now() + timedelta(minutes=1)):
        jobs.sweep_closing()
    assert not User.objects.closing().exists()


def test_a_notice_that_cannot_be_read_waits_for_a_person(caplog: pytest.LogCaptureFixture) -> None:
    user = UserFactory()
    made = [
        services.notify(
            user=user, kind="second_factor_reset", key=key, context={"username": "w", "url": "http://x/"}
        )[0]
        for key in ("bad", "good")
    ]
    bad, good = (notice.pk for notice in made)
    # Encrypted with a key that the panel no longer has.
    with connection.cursor() as cursor:
        cursor.execute("UPDATE accounts_notice SET address = 'gAAAAA' WHERE id = %s", [bad])
    for pk in (bad, good):
        jobs.send_notice(pk)
    assert dict(Notice.objects.values_list("pk", "state")) == {bad: "failed", good: "sent"}
    assert f"notice {bad} cannot be read" in caplog.text
