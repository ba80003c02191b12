"""The rules are played at random against a model that knows no spans: a queue of hours, one of which is used up each hour."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from serials.rentals import schedule

pytestmark = pytest.mark.slow

START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
entitlements = st.sampled_from(["small", "large", "bound"])
lengths = st.integers(1, 60)


def day(number: float) -> datetime:
    return START + timedelta(days=number)


class RentalLife(RuleBasedStateMachine):
    """Acts on a schedule and on the model in the same way; time passes by whole hours."""

    def __init__(self) -> None:
        super().__init__()
        self.spans: schedule.Spans = ()
        self.now = START
        self.paused_at: datetime | None = None
        self.redemption = 0
        self.granted = 0
        self.refunded = 0
        # The model: the hours still to come (what they give, by which redemption), and those used, by time.
        self.queue: list[tuple[str, int]] = []
        self.used: dict[datetime, tuple[str, int]] = {}

    @property
    def at(self) -> datetime:
        return self.paused_at or self.now

    def _new(self, hours: int) -> int:
        self.redemption += 1
        self.granted += hours
        return self.redemption

    def _end(self) -> datetime:
        return self.spans[-1].ends_at if self.spans else self.at

    @rule(hours=lengths, entitlement=entitlements)
    def add(self, hours: int, entitlement: str) -> None:
        new = self._new(hours)
        end = max(self._end(), self.at)
        self.spans = schedule.add(
            self.spans, at=self.at, length=hours * HOUR, entitlement=entitlement, redemption=new
        )
        self.queue += [(entitlement, new)] * hours
        assert self._end() == end + hours * HOUR

    @rule(hours=lengths, entitlement=entitlements)
    def start_now(self, hours: int, entitlement: str) -> None:
        new = self._new(hours)
        end = max(self._end(), self.at)
        self.spans = schedule.start_now(
            self.spans, at=self.at, length=hours * HOUR, entitlement=entitlement, redemption=new
        )
        self.queue = [(entitlement, new)] * hours + self.queue
        assert self._end() == end + hours * HOUR

    @precondition(lambda self: self.spans)
    @rule(hours=st.integers(-50, 100))
    def renew_until(self, hours: int) -> None:
        end = self._end()
        until = self.at + hours * HOUR
        gained = max(0, (until - max(end, self.at)) // HOUR)
        last = str(self.spans[-1].entitlement)
        new = self._new(gained)
        self.spans = schedule.renew_until(self.spans, at=self.at, until=until, redemption=new)
        self.queue += [(last, new)] * gained
        assert self._end() == (until if gained else end)

    @precondition(lambda self: self.spans)
    @rule(hours=lengths)
    def credit(self, hours: int) -> None:
        end = max(self._end(), self.at)
        new = self._new(hours)
        first = self.queue[0] if self.queue else (str(self.spans[-1].entitlement), new)
        self.spans = schedule.credit(self.spans, at=self.at, length=hours * HOUR, redemption=new)
        self.queue = [first] * hours + self.queue
        assert self._end() == end + hours * HOUR

    @precondition(lambda self: self.spans)
    @rule(data=st.data())
    def refund(self, data: st.DataObject) -> None:
        span = data.draw(st.sampled_from(self.spans))
        left = (span.ends_at - max(span.starts_at, self.at)) // HOUR
        end = self._end()
        self.spans = schedule.refund(self.spans, at=self.at, starts_at=span.starts_at)
        if left <= 0:
            assert self._end() == end
            return
        first = (max(span.starts_at, self.at) - self.at) // HOUR
        assert set(self.queue[first : first + left]) == {(span.entitlement, span.redemption)}
        del self.queue[first : first + left]
        self.refunded += left

    @precondition(lambda self: self.paused_at is None and self.queue)
    @rule()
    def pause(self) -> None:
        self.paused_at = self.now

    @precondition(lambda self: self.paused_at is not None)
    @rule()
    def resume(self) -> None:
        assert self.paused_at is not None
        self.spans = schedule.resume(self.spans, paused_at=self.paused_at, now=self.now)
        self.paused_at = None

    @rule(hours=st.integers(1, 40))
    def time_passes(self, hours: int) -> None:
        for _ in range(hours):
            if self.paused_at is None and self.queue:
                self.used[self.now] = self.queue.pop(0)
            self.now += HOUR

    @invariant()
    def every_used_hour_is_in_exactly_one_span(self) -> None:
        before, _ = schedule.split(self.spans, self.at)
        assert self._hours(before) == self.used

    @invariant()
    def every_hour_to_come_is_in_exactly_one_span(self) -> None:
        _, behind = schedule.split(self.spans, self.at)
        expected = {self.at + number * HOUR: what for number, what in enumerate(self.queue)}
        assert self._hours(behind) == expected

    @invariant()
    def granted_less_refunded_is_used_and_left(self) -> None:
        before, behind = schedule.split(self.spans, self.at)
        assert schedule.total(before) + schedule.total(behind) == (self.granted - self.refunded) * HOUR

    @invariant()
    def spans_are_in_order_and_never_empty(self) -> None:
        for span in self.spans:
            assert span.starts_at < span.ends_at
        for earlier, later in zip(self.spans, self.spans[1:], strict=False):
            assert earlier.ends_at <= later.starts_at

    @staticmethod
    def _hours(spans: schedule.Spans) -> dict[datetime, tuple[str, int]]:
        hours: dict[datetime, tuple[str, int]] = {}
        for span in spans:
            moment = span.starts_at
            while moment < span.ends_at:
                assert moment not in hours, "an hour lies in two spans"
                hours[moment] = (str(span.entitlement), span.redemption)
                moment += HOUR
        return hours


TestRentalLife = RentalLife.TestCase
TestRentalLife.settings = settings(max_examples=120, stateful_step_count=30)


def test_old_time_follows_when_the_new_starts_now() -> None:
    spans = schedule.add((), at=day(0), length=timedelta(days=30), entitlement="small", redemption=1)
    spans = schedule.start_now(spans, at=day(10), length=timedelta(days=5), entitlement="large", redemption=2)
    assert spans == (
        schedule.Span(day(0), day(10), "small", 1),
        schedule.Span(day(10), day(15), "large", 2),
        schedule.Span(day(15), day(35), "small", 1),
    )


def test_time_starts_at_the_pause_when_it_is_added_to_an_ended_rental() -> None:
    spans = schedule.add((), at=day(0), length=timedelta(days=1), entitlement="small", redemption=1)
    assert schedule.add(spans, at=day(3), length=timedelta(days=1), entitlement="small")[-1].starts_at == day(
        3
    )


def test_rest_is_moved_by_the_pause_when_a_rental_is_resumed() -> None:
    spans = schedule.add((), at=day(0), length=timedelta(days=30), entitlement="small", redemption=1)
    assert schedule.resume(spans, paused_at=day(10), now=day(17)) == (
        schedule.Span(day(0), day(10), "small", 1),
        schedule.Span(day(17), day(37), "small", 1),
    )


def test_end_stays_when_it_is_renewed_to_an_earlier_date() -> None:
    spans = schedule.add((), at=day(0), length=timedelta(days=30), entitlement="small", redemption=1)
    assert schedule.renew_until(spans, at=day(5), until=day(29)) == spans


def test_nothing_can_go_on_when_there_was_never_a_span() -> None:
    with pytest.raises(schedule.NoEntitlement):
        schedule.renew_until((), at=day(0), until=day(1))
    with pytest.raises(schedule.NoEntitlement):
        schedule.credit((), at=day(0), length=HOUR)
