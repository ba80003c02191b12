"""What is allowed, by whom it was said, and what follows from what was used."""

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containers.allowances import (
    FINE,
    UNLIMITED,
    AtEnd,
    Caps,
    Figure,
    Outcome,
    RelayCase,
    Source,
    State,
    Use,
    decide,
    follows,
    inherit,
    judge,
    rate_now,
    widen,
)
from serials.rentals.models import Entitlement

NOTHING = Caps()
SOLD = Caps(both=1000, rate=500, devices=20, at_end=AtEnd.THROTTLE)


def test_what_happens_at_the_end_has_the_values_of_what_is_sold():
    assert {item.value for item in AtEnd} == set(Entitlement.AtQuota.values)


@pytest.mark.parametrize(
    ("customer", "relay", "expected"),
    [
        (NOTHING, None, Figure(1000, Source.SOLD)),
        (Caps(up=5), None, Figure(1000, Source.SOLD)),
        (Caps(both=70), None, Figure(70, Source.CUSTOMER)),
        (Caps(both=UNLIMITED), None, Figure(None, Source.CUSTOMER)),
        (Caps(both=70), Caps(both=3), Figure(3, Source.RELAY)),
        (Caps(both=70), Caps(down=3), Figure(70, Source.CUSTOMER)),
        (NOTHING, Caps(both=UNLIMITED), Figure(None, Source.RELAY)),
    ],
)
def test_the_nearest_word_counts(customer, relay, expected):
    assert inherit(SOLD, customer, relay).both == expected


def test_without_a_word_there_is_no_limit_and_nothing_happens():
    allowance = inherit(NOTHING, NOTHING)
    assert not allowance.is_limited
    assert (allowance.at_end, allowance.rate.value) == (AtEnd.NOTHING, None)
    assert judge(allowance, Use(10**15, 10**15)) == FINE


@pytest.mark.parametrize(
    ("used", "state", "percent"),
    [
        (Use(), State.FINE, 0),
        (Use(799, 0), State.FINE, 79),
        (Use(0, 800), State.NEAR, 80),
        (Use(500, 499), State.NEAR, 99),
        (Use(500, 500), State.OVER, 100),
        (Use(2000, 1), State.OVER, 200),
    ],
)
def test_how_much_is_used(used, state, percent):
    verdict = judge(inherit(SOLD, NOTHING), used)
    assert (verdict.state, verdict.percent) == (state, percent)


def test_of_several_figures_that_counts_of_which_the_most_is_used():
    allowance = inherit(SOLD, Caps(up=100, down=10_000))
    assert judge(allowance, Use(90, 500)).name == "up"
    assert judge(allowance, Use(10, 900)).name == "both"


def test_a_relays_own_figure_is_for_it_alone_and_the_others_are_for_all_together():
    allowance = inherit(SOLD, NOTHING, Caps(up=100))
    assert judge(allowance, Use(700, 0), Use(20, 0)).state is State.FINE
    assert judge(allowance, Use(700, 0), Use(100, 0)).state is State.OVER
    assert judge(allowance, Use(900, 100), Use(0, 0)).name == "both"
    assert judge(inherit(SOLD, NOTHING, Caps(both=UNLIMITED)), Use(5000, 0), Use(1, 0)) == FINE


@pytest.mark.parametrize(
    ("rate", "happens", "expected"),
    [
        (None, AtEnd.NOTHING, None),
        (None, AtEnd.THROTTLE, 16),
        (500, AtEnd.NOTHING, 500),
        (500, AtEnd.THROTTLE, 16),
        (9, AtEnd.THROTTLE, 9),
        (500, AtEnd.STOP, 500),
    ],
)
def test_how_fast_a_device_may_send(rate, happens, expected):
    assert rate_now(inherit(Caps(rate=rate), NOTHING), happens, lifeline=16) == expected


amounts = st.one_of(st.none(), st.integers(0, 10**6))
caps = st.builds(
    Caps, amounts, amounts, amounts, amounts, amounts, st.one_of(st.none(), st.sampled_from(AtEnd))
)
uses = st.builds(Use, st.integers(0, 10**6), st.integers(0, 10**6))
WEIGHT = list(State)


@given(sold=caps, customer=caps, relay=caps, used=uses, more=uses, own=uses)
def test_what_is_decided_for_relays_is_what_counts_for_each(sold, customer, relay, used, more, own):
    cases = {1: RelayCase(NOTHING, own), 2: RelayCase(relay, own), 3: RelayCase(replace(relay, up=None), own)}
    added = more.up
    found = decide(sold=sold, customer=customer, added=added, used=used, relays=cases, lifeline=10)
    for pk, case in cases.items():
        allowance = widen(inherit(sold, customer, case.caps), added)
        verdict = judge(allowance, used, case.used)
        happens = follows(verdict, allowance.at_end)
        assert found.relays[pk] == Outcome(verdict, happens, rate_now(allowance, happens, 10))
    assert found.customer == found.relays[1]
    # What is added widens what is the customer's, and no relay's own.
    assert widen(inherit(sold, customer, Caps(1, 1, 1)), added).both.value == 1


@given(sold=caps, customer=caps, relay=caps, used=uses, more=uses, own=uses)
def test_rules(sold, customer, relay, used, more, own):
    allowance = inherit(sold, customer, relay)
    places = {Source.RELAY: relay, Source.CUSTOMER: customer, Source.SOLD: sold}
    order = list(Source)
    for name in ("up", "down", "both", "rate", "devices"):
        figure = getattr(allowance, name)
        # What a figure says stands in its place, and no nearer place says anything.
        assert (getattr(places[figure.source], name) or None) == figure.value
        assert all(getattr(places[nearer], name) is None for nearer in order[: order.index(figure.source)])
    verdict = judge(allowance, used, own)
    # Over exactly where some figure is used up; more use is never better, and a wider allowance never worse.
    reached = [
        figure.value is not None
        and getattr(own if figure.source is Source.RELAY else used, name) >= figure.value
        for name in ("up", "down", "both")
        for figure in [getattr(allowance, name)]
    ]
    assert (verdict.state is State.OVER) == any(reached)
    assert WEIGHT.index(judge(allowance, used + more, own + more).state) >= WEIGHT.index(verdict.state)
    free = {field.name: UNLIMITED for field in fields(Caps) if field.name in ("up", "down", "both")}
    assert judge(inherit(sold, customer, replace(relay, **free)), used, own) == FINE
    # Before the end nothing happens, and a slow-down never makes anything faster.
    happens = follows(verdict, allowance.at_end)
    assert happens is (allowance.at_end if any(reached) else AtEnd.NOTHING)
    rate, slowed = rate_now(allowance, AtEnd.NOTHING, 10), rate_now(allowance, AtEnd.THROTTLE, 10)
    assert slowed is not None
    assert slowed <= min(10, 10 if rate is None else rate)
