"""What everybody sees and is told when a server does not answer or a relay carries no packets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import time_machine
from django.core.cache import cache
from django.utils import timezone, translation
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.containers.rentals import plan, prove
from tests.factories import RentalFactory, UserFactory

if TYPE_CHECKING:
    from accounts.models import User
    from containers.models import Relay
    from containers.progress import RelayCard
    from fleet.models import Server
    from serials.rentals.models import Rental

pytestmark = pytest.mark.django_db
MINUTE = timedelta(minutes=1)


def fail_contact(server: Server) -> None:
    from fleet.services import record_failed_contact
    from fleet.ssh import TimedOut

    record_failed_contact(server_pk=server.pk, error=TimedOut())


def answer(server: Server) -> None:
    from fleet.services import record_contact

    record_contact(server_pk=server.pk)


def test_relay(relay: Relay, *, passes: bool) -> None:
    from containers.derp.probe import ProbeResult
    from containers.services.relays import record_probe

    if passes:
        times = dict.fromkeys(("tcp_ms", "tls_ms", "handshake_ms", "packet_ms", "stun_ms"), 1.0)
        record_probe(relay=relay, result=ProbeResult(ok=True, **times))
    else:
        record_probe(relay=relay, result=ProbeResult(ok=False, step="connect", cause="connect_timed_out"))


test_relay.__test__ = False  # type: ignore[attr-defined]


def sweep() -> None:
    """A round in which every server that is not silent has been visited."""
    from containers.jobs import sweep_outages
    from fleet.models import Server

    Server.objects.filter(silent_since=None).update(last_contact_at=timezone.now())
    sweep_outages()


def card_of(relay: Relay) -> RelayCard:
    from containers.progress import relay_cards

    assert relay.rental is not None
    return next(card for card in relay_cards(relay.rental, timezone.now()) if card.relay == relay)


def told(user: User) -> dict[str, int]:
    return dict(Counter(user.notices.exclude(state="dropped").values_list("kind", flat=True)))


def send_all(user: User) -> None:
    """All that waits is handed over."""
    user.notices.filter(state="waiting").update(
        state="sent", handed_at=timezone.now(), sent_at=timezone.now()
    )


@pytest.fixture(autouse=True)
def _english() -> Iterator[None]:
    with translation.override("en"):
        yield


@pytest.fixture
def boss(db: None) -> User:
    from accounts.models import User

    return UserFactory(role=User.Role.ADMIN, language="en")


@pytest.fixture
def relay(rental: Rental) -> Relay:
    """A relay whose last test passed, and so did that of the two others."""
    for row in rental.relays.wanted():
        test_relay(row, passes=True)
    return rental.relays.select_related("server", "rental__user").get(slot=1)


def test_every_customer_sees_at_the_first_failed_contact_that_the_server_does_not_answer(
    relay: Relay, servers: list[Server]
) -> None:
    from django.test import Client
    from django.urls import reverse

    other = RentalFactory(days=30)
    plan(other)
    prove(other)
    assert other.relays.wanted().filter(server=relay.server).exists()
    fail_contact(relay.server)
    for rental in (relay.rental, other):
        client = Client()
        client.force_login(rental.user)
        page = client.get(reverse("home-relays")).content.decode()
        assert page.count("The server does not answer (since ") == 1
        assert page.count("panel-state is-green") == 2
        assert page.count("panel-state is-red") == 1
    answer(relay.server)
    page = client.get(reverse("home-relays")).content.decode()
    # The three cards, and the word over all of them.
    assert page.count("panel-state is-green") == 4


def test_a_relay_that_carries_packets_is_not_said_to_be_away_when_only_ssh_is(relay: Relay) -> None:
    fail_contact(relay.server)
    assert (card_of(relay).colour, card_of(relay).carries) == ("red", False)
    test_relay(relay, passes=True)
    card = card_of(relay)
    assert (card.state, card.colour, card.carries) == ("silent", "orange", True)
    assert "but the relay has carried a packet" in str(card.sentence)


def test_a_failed_test_is_seen_on_the_card_and_counted(relay: Relay, boss: User) -> None:
    from derpmgmt.overview import admin_overview

    def figure() -> str:
        return next(item.value for item in admin_overview()["figures"] if item.value.endswith(" / 3"))

    assert figure() == "3 / 3"
    test_relay(relay, passes=False)
    assert (card_of(relay).label, card_of(relay).colour) == ("test failed", "orange")
    assert figure() == "2 / 3"
    other = relay.rental.relays.select_related("server").get(slot=2)  # type: ignore[union-attr]
    fail_contact(other.server)
    assert figure() == "1 / 3"


def test_no_customer_is_told_of_what_maintenance_announced(relay: Relay, boss: User) -> None:
    from fleet.services import start_maintenance

    start_maintenance(server=relay.server, by=boss, reason="a new disk")
    with time_machine.travel(timezone.now(), tick=False) as clock:
        for _time in range(3):
            fail_contact(relay.server)
            test_relay(relay, passes=False)
            sweep()
            clock.shift(6 * MINUTE)
    assert told(relay.rental.user) == {}  # type: ignore[union-attr]
    card = card_of(relay)
    assert (card.label, card.colour) == ("in maintenance", "orange")
    assert "in maintenance and does not answer" in str(card.sentence)


def test_a_customer_is_told_once_when_a_relay_has_carried_nothing_for_long(relay: Relay) -> None:
    customer = relay.rental.user  # type: ignore[union-attr]
    with time_machine.travel(timezone.now(), tick=False) as clock:
        for _time in range(2):
            fail_contact(relay.server)
        for minutes in range(20):
            test_relay(relay, passes=False)
            sweep()
            assert told(customer) == ({"relay_silent": 1} if minutes >= 10 else {})
            clock.shift(MINUTE)
        notice = customer.notices.get()
        assert notice.context["others"] == 2
        send_all(customer)
        test_relay(relay, passes=True)
        test_relay(relay, passes=False)
        sweep()
        assert told(customer) == {"relay_silent": 1}
        clock.shift(10 * MINUTE)
        sweep()
        assert told(customer) == {"relay_silent": 2}


def test_a_customer_is_not_told_when_only_the_panel_cannot_reach_the_server(relay: Relay) -> None:
    with time_machine.travel(timezone.now(), tick=False) as clock:
        for _time in range(4):
            fail_contact(relay.server)
            test_relay(relay, passes=True)
            sweep()
            clock.shift(10 * MINUTE)
    assert told(relay.rental.user) == {}  # type: ignore[union-attr]


@pytest.mark.parametrize("language", ["en", "zh-hans"])
@pytest.mark.parametrize("others", [0, 1, 2])
def test_notices_are_written_in_both_languages(relay: Relay, language: str, others: int) -> None:
    from accounts.models import User
    from accounts.services.notices import render

    User.objects.update(language=language)
    relay.rental.user.refresh_from_db()  # type: ignore[union-attr]
    with time_machine.travel(timezone.now(), tick=False) as clock:
        for number, row in enumerate(relay.rental.relays.wanted().order_by("slot")):  # type: ignore[union-attr]
            test_relay(row, passes=number > 2 - others - 1 and number > 0)
        for _time in range(2):
            fail_contact(relay.server)
        clock.shift(11 * MINUTE)
        sweep()
    from accounts.models import Notice

    for notice in Notice.objects.filter(kind="relay_silent"):
        words = render(notice)
        is_english = not any("一" <= letter <= "鿿" for letter in words.subject + words.text.split("http")[0])
        assert is_english == (language == "en") or "上海" in words.subject, words.text
        assert "{" not in words.text
        assert relay.server.address in words.text or notice.context["address"] in words.text


ACTS = ["down", "up", "passes", "fails", "sweep", "killed sweep", "minutes"]


@pytest.mark.slow
@settings(max_examples=25)
@given(acts=st.lists(st.tuples(st.sampled_from(ACTS), st.integers(1, 12)), max_size=25))
def test_no_card_is_green_without_reason_and_nothing_is_told_twice(
    servers: list[Server], announced: Any, acts: list[tuple[str, int]]
) -> None:
    from accounts.models import Notice
    from containers.services import proving
    from fleet.models import Server as Row

    cache.clear()
    Row.objects.update(silent_since=None, contact_failures=0, next_contact_at=None, status="healthy")
    rental = RentalFactory(days=30)
    plan(rental)
    prove(rental)
    relay = rental.relays.select_related("server", "rental__user").get(slot=1)
    test_relay(relay, passes=True)
    server = relay.server
    is_down, is_failing = False, False
    failing_since: datetime | None = None
    times_told, told_this_time = 0, False
    with time_machine.travel(timezone.now(), tick=False) as clock:
        for act, number in acts:
            now = timezone.now()
            clock.shift(timedelta(seconds=1))
            if act == "down":
                fail_contact(server)
                is_down = True
            elif act == "up":
                answer(server)
                is_down = False
            elif act in {"passes", "fails"}:
                test_relay(relay, passes=act == "passes")
                is_failing = act == "fails"
                failing_since = (failing_since or timezone.now()) if is_failing else None
                told_this_time = told_this_time and is_failing
            elif act == "minutes":
                clock.shift(number * MINUTE)
            else:
                if act == "killed sweep":
                    with pytest.MonkeyPatch.context() as patch, suppress(_Killed):
                        patch.setattr(proving, "notify", _die)
                        sweep()
                sweep()
                now = timezone.now()
                if failing_since and now - failing_since >= 10 * MINUTE and not told_this_time:
                    times_told, told_this_time = times_told + 1, True
            card = card_of(relay)
            assert (card.colour == "green") == (not is_down and not is_failing), acts
            assert Notice.objects.filter(user=rental.user, kind="relay_silent").count() == times_told


class _Killed(BaseException):
    """Ends a sweep as SIGKILL does: in the middle of a transaction, which is rolled back."""


def _die(**_what: Any) -> None:
    raise _Killed
