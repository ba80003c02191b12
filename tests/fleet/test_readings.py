"""Rates from two readings: right where they compare, unknown where they do not, never negative."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.readings import Rates, Reading, rates_between

FIRST = Reading(1000.0, "boot", 100, 1000, "eth0", 5_000, 7_000)
LATER = Reading(1015.0, "boot", 150, 1200, "eth0", 20_000, 7_000)


def test_rates_are_told_when_readings_compare() -> None:
    assert rates_between(FIRST, LATER) == Rates(0.25, 1000.0, 0.0)


@pytest.mark.parametrize(
    "later",
    [
        replace(LATER, boot_id="other"),
        replace(LATER, at=1000.0),
        replace(LATER, at=None),
        replace(LATER, at=900.0),
        replace(LATER, at=2000.0),
    ],
)
def test_nothing_is_known_when_the_machine_or_the_time_is_another(later: Reading) -> None:
    assert rates_between(FIRST, later) == Rates()
    assert rates_between(None, later) == Rates()


@pytest.mark.parametrize(
    "later",
    [
        replace(LATER, interface="eth1"),
        replace(LATER, interface=""),
        replace(LATER, received_bytes=4_999),
        replace(LATER, sent_bytes=0),
        replace(LATER, received_bytes=None, sent_bytes=None),
    ],
)
def test_network_alone_is_unknown_when_the_interface_is_another_or_began_anew(later: Reading) -> None:
    assert rates_between(FIRST, later) == Rates(0.25)


def test_rate_is_unknown_when_no_interface_carries_so_much() -> None:
    assert rates_between(FIRST, replace(LATER, received_bytes=10**15)) == Rates(0.25, None, 0.0)


@pytest.mark.parametrize("later", [replace(LATER, cpu_busy=99), replace(LATER, cpu_all=1000), replace(LATER, cpu_busy=None)])  # fmt: skip
def test_share_is_unknown_when_a_counter_went_back_or_is_not_told(later: Reading) -> None:
    assert rates_between(FIRST, later).cpu_share is None


_counter = st.none() | st.integers(0, 10**17)
_readings = st.builds(
    Reading,
    at=st.none() | st.floats(0, 2000),
    boot_id=st.sampled_from(["a", "b"]),
    cpu_busy=_counter,
    cpu_all=_counter,
    interface=st.sampled_from(["", "eth0", "eth1"]),
    received_bytes=_counter,
    sent_bytes=_counter,
)


@given(_readings, _readings)
def test_no_rate_is_negative_or_more_than_there_is(before: Reading, after: Reading) -> None:
    found = rates_between(before, after)
    assert found.cpu_share is None or 0 <= found.cpu_share <= 1
    for rate in (found.receive_rate, found.send_rate):
        assert rate is None or 0 <= rate <= 50 * 10**9
