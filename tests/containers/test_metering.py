"""Counters to bytes: played at random on a container that is started anew, loses its network, and is read late, twice and too seldom."""

from collections import defaultdict
from dataclasses import dataclass, field, replace
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containers.metering import (
    MOST_BYTES_PER_SECOND,
    SLACK_SECONDS,
    Doubt,
    Known,
    Reading,
    measure,
    measure_all,
    month_begin,
    next_month,
    read_container,
)
from fleet.facts import ContainerFacts, InterfaceFacts

ID, BOOT = "c" * 64, "892e0608-3fc3-4faf-92b8-caaf259a446f"


def container(*interfaces: InterfaceFacts, start: int = 100) -> ContainerFacts:
    return ContainerFacts(ID, f"{BOOT} {start}", interfaces)


def read(received: int, sent: int, uptime: float, *, index: int | None = 2) -> Reading:
    facts = container(InterfaceFacts("eth0", index, received, sent))
    return read_container(facts, uptime)[0]


@dataclass
class Host:
    """A container as its host has it, and readings that are under way."""

    has_index: bool
    uptime: float = 1000.0
    start: int = 100_000
    index: int = 2
    received: int = 0
    sent: int = 0
    flowed: int = 0
    under_way: list[Reading] = field(default_factory=list)
    known: dict[str, Known] = field(default_factory=dict)
    counted: int = 0
    delivered: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))

    def look(self) -> Reading:
        facts = container(
            InterfaceFacts("eth0", self.index if self.has_index else None, self.received, self.sent),
            start=self.start,
        )
        return read_container(facts, self.uptime)[0]

    def deliver(self, reading: Reading) -> None:
        for delta in measure_all(self.known, [reading]):
            assert delta.doubt is None
            assert delta.received >= 0
            assert delta.sent >= 0
            self.counted += delta.received + delta.sent
            if delta.after:
                self.known[reading.epoch] = delta.after
        self.delivered[reading.epoch] = max(self.delivered[reading.epoch], reading.received + reading.sent)

    def act(self, name: str, number: int) -> None:
        self.uptime += 0.01
        if name == "flow":
            self.received += number
            self.sent += number // 3
            self.flowed += number + number // 3
        elif name == "wait":
            self.uptime += number / 1000
        elif name == "visit":
            self.deliver(self.look())
        elif name == "look":
            self.under_way.append(self.look())
        elif name == "late" and self.under_way:
            self.deliver(self.under_way[number % len(self.under_way)])  # may come twice
        elif name in ("kill", "restart"):
            if name == "restart":
                self.deliver(self.look())
            self.start, self.received, self.sent = round(self.uptime * 100), 0, 0
        elif name == "reconnect":
            self.index, self.received, self.sent = self.index + 1, 0, 0


ACTS = st.lists(
    st.tuples(
        st.sampled_from(["flow", "wait", "visit", "look", "late", "kill", "restart", "reconnect"]),
        st.integers(0, 10**6),
    ),
    max_size=60,
)


@given(acts=ACTS)
def test_bytes_are_counted_once_when_visits_come_late_twice_or_seldom(acts: list[tuple[str, int]]) -> None:
    host = Host(has_index=True)
    for name, number in acts:
        host.act(name, number)
        assert host.counted <= host.flowed
    host.act("visit", 0)
    assert host.counted == sum(host.delivered.values())


@given(acts=ACTS)
def test_nothing_is_counted_twice_when_interfaces_have_no_number(acts: list[tuple[str, int]]) -> None:
    host = Host(has_index=False)
    for name, number in acts:
        host.act(name, number)
        assert host.counted <= host.flowed


@given(acts=ACTS)
def test_nothing_is_lost_when_every_stop_is_read_before(acts: list[tuple[str, int]]) -> None:
    host = Host(has_index=True)
    for name, number in acts:
        if name in ("kill", "reconnect"):
            host.act("restart", 0)
        else:
            host.act(name, number)
    host.act("visit", 0)
    assert host.counted == host.flowed


def test_a_first_reading_counts_from_the_containers_beginning() -> None:
    delta = measure(None, read(700, 300, 11.0))
    assert (delta.received, delta.sent, delta.seconds) == (700, 300, 10.0)


def test_a_container_is_read_by_interface() -> None:
    facts = container(
        InterfaceFacts("eth0", 2, 1, 2), InterfaceFacts("eth0", 3, 3, 4), InterfaceFacts("eth1", 4, 5, 6)
    )
    assert len({reading.epoch for reading in read_container(facts, 2.0)}) == 3


def test_a_reading_is_kept_out_when_no_interface_is_that_fast() -> None:
    known = Known(10, 10, 100.0)
    most = int(MOST_BYTES_PER_SECOND * (15 + SLACK_SECONDS))
    assert measure(known, read(10 + most, 10, 115.0)).after
    for reading in (read(11 + most, 10, 115.0), read(10, 11 + most, 115.0)):
        delta = measure(known, reading)
        assert (delta.doubt, delta.received, delta.sent, delta.after) == (Doubt.TOO_FAST, 0, 0, None)


def test_the_next_reading_counts_all_when_one_was_kept_out() -> None:
    deltas = measure_all(
        {}, [read(100, 100, 10.0), read(2**62, 100, 25.0), read(-1, 5, 30.0), read(400, 300, 40.0)]
    )
    assert [delta.doubt for delta in deltas] == [None, Doubt.TOO_FAST, Doubt.NO_NUMBER, None]
    assert sum(delta.received for delta in deltas) == 400
    assert sum(delta.sent for delta in deltas) == 300


def test_a_counter_that_goes_backwards_within_its_epoch_is_not_believed() -> None:
    known = Known(1000, 1000, 100.0)
    assert measure(known, read(0, 0, 100.0 + SLACK_SECONDS + 1)).doubt is Doubt.BACKWARDS
    assert measure(known, read(0, 0, 100.0 + SLACK_SECONDS)).doubt is None


def test_a_counter_begins_anew_without_a_number_once_no_visit_can_be_that_late() -> None:
    known = Known(1000, 1000, 100.0)
    late, new = read(7, 8, 160.0, index=None), read(7, 8, 161.0, index=None)
    assert measure(known, late).after is None
    delta = measure(known, new)
    assert (delta.received, delta.sent, delta.doubt) == (7, 8, None)


def test_a_first_reading_is_bounded_by_the_age_of_its_container() -> None:
    fresh = read(int(MOST_BYTES_PER_SECOND * 100), 0, 2.0)
    assert measure(None, fresh).doubt is Doubt.TOO_FAST
    assert measure(None, replace(fresh, age=50.0)).doubt is None


@pytest.mark.parametrize(
    ("day", "of", "begin", "after"),
    [
        (1, date(2026, 11, 30), date(2026, 11, 1), date(2026, 12, 1)),
        (30, date(2026, 11, 30), date(2026, 11, 30), date(2026, 12, 30)),
        (31, date(2026, 11, 29), date(2026, 10, 31), date(2026, 11, 30)),
        (31, date(2026, 11, 30), date(2026, 11, 30), date(2026, 12, 31)),
        (31, date(2027, 1, 30), date(2026, 12, 31), date(2027, 1, 31)),
        (31, date(2027, 3, 1), date(2027, 2, 28), date(2027, 3, 31)),
        (29, date(2028, 3, 1), date(2028, 2, 29), date(2028, 3, 29)),
        (15, date(2027, 1, 3), date(2026, 12, 15), date(2027, 1, 15)),
    ],
)
def test_months_begin_on_their_day_or_the_last_one_there_is(
    day: int, of: date, begin: date, after: date
) -> None:
    assert month_begin(day, of) == begin
    assert next_month(day, of) == after


@given(day=st.integers(1, 31), of=st.dates(date(2020, 1, 1), date(2040, 1, 1)))
def test_months_follow_one_another_without_gap(day: int, of: date) -> None:
    begin, after = month_begin(day, of), next_month(day, of)
    assert begin <= of < after
    assert month_begin(day, after) == after
    assert month_begin(day, after - timedelta(days=1)) == begin
