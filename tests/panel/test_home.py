"""A customer's home: what it says of all relays together, what stands on top, and what it does not say twice."""

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from acl.maps import services as maps
from containers.models import Relay
from fleet.models import Server
from serials.rentals.models import Rental
from tests.factories import DeviceFactory, RelayHealthFactory, ServedRentalFactory

pytestmark = pytest.mark.django_db


@pytest.fixture
def rental() -> Rental:
    rental = ServedRentalFactory(relays=3, days=30)
    for relay in rental.relays.all():
        health = RelayHealthFactory(relay=relay, is_ok=True, handshake_ms=9.0, packet_ms=2.0)
        Relay.objects.filter(pk=relay.pk).update(last_health=health)
    Rental.objects.filter(pk=rental.pk).update(waiting_since=None)
    return rental


@pytest.fixture
def browser(client: Client, rental: Rental) -> Client:
    client.force_login(rental.user)
    client.post(reverse("accounts:language-set"), {"language": "en"})
    return client


def fail(relays: list[Relay]) -> None:
    for relay in relays:
        health = RelayHealthFactory(relay=relay, is_ok=False, cause="refused")
        Relay.objects.filter(pk=relay.pk).update(last_health=health)


def silence(relays: list[Relay], **server: Any) -> None:
    since = timezone.now() + timedelta(seconds=1)
    Server.objects.filter(relays__in=relays).update(silent_since=since, **server)


def carry_all_the_same(relays: list[Relay]) -> None:
    Server.objects.filter(relays__in=relays).update(silent_since=timezone.now() - timedelta(minutes=5))


def maintain(relays: list[Relay]) -> None:
    silence(relays, status=Server.Status.MAINTENANCE)


def make_anew(relays: list[Relay]) -> None:
    Relay.objects.filter(pk__in=[relay.pk for relay in relays]).update(status=Relay.Status.PLANNED)


def take_away(relays: list[Relay]) -> None:
    pks = [relay.pk for relay in relays]
    Relay.objects.filter(pk__in=pks).update(
        status=Relay.Status.RELEASED, slot=None, released_at=timezone.now()
    )


@pytest.mark.parametrize(
    ("happens", "how_many", "colour", "word", "part"),
    [
        (fail, 0, "green", "All well", "All three relays carry packets."),
        (fail, 1, "orange", "Partly down", " 1: test failed. Your devices use the others meanwhile"),
        (fail, 3, "red", "Down", "It is tried again by itself"),
        (silence, 1, "orange", "Partly down", "no answer. Your devices use the others"),
        (carry_all_the_same, 1, "orange", "Partly down", "no answer. Packets pass all the same"),
        (maintain, 3, "orange", "Not known", "Whether they work, the panel cannot tell"),
        (make_anew, 1, "blue", "being prepared", "2 of 3 relays are ready"),
        (take_away, 1, "orange", "Incomplete", "fewer than three servers"),
    ],
)
def test_all_relays_are_said_in_a_word_and_the_worst_by_name(
    browser: Client,
    rental: Rental,
    happens: Callable[[list[Relay]], None],
    how_many: int,
    colour: str,
    word: str,
    part: str,
) -> None:
    happens(list(rental.relays.order_by("slot")[:how_many]))
    # The cards that are fetched again bring it along.
    for name, swaps in (("home", False), ("home-relays", True)):
        (said,) = re.findall(r'<p id="relays-overall"(.*?)</p>', browser.get(reverse(name)).text, re.DOTALL)
        assert f'is-{colour}">{word}<' in said
        assert part in said
        assert ("hx-swap-oob" in said) is swaps


def test_whoever_waits_stands_above_the_rental_by_number(browser: Client, rental: Rental) -> None:
    assert "want to come in" not in browser.get(reverse("home")).text
    DeviceFactory.create_batch(3, rental=rental, last_seen_at=timezone.now(), knocks=2)
    text = browser.get(reverse("home")).text
    assert text.index("3 devices want to come in") < text.index('id="rental"') < text.index('id="relays"')
    assert "3 devices want to come in" in browser.get(reverse("home-devices")).text


def test_the_maps_own_end_is_said_only_when_it_must_be_pasted_again(browser: Client, rental: Rental) -> None:
    def shown() -> str:
        page = browser.get(reverse("home-map")).text
        return re.sub("<pre.*?</pre>", "", page, flags=re.DOTALL)

    config = maps.active_config(rental)
    assert config
    browser.post(reverse("acl:map-copied", args=["hujson"]), {"shown": config.version})
    assert "valid until" not in shown()
    maps.renew_map(rental=rental, by=None)
    assert "nothing has to be pasted again" in shown()
    assert "valid until" not in shown()
    Relay.objects.filter(rental=rental, slot=1).update(stun_port=1)
    maps.refresh_map(rental=rental, reason=maps.RELAYS_CHANGED)
    config = maps.active_config(rental)
    assert config
    assert f"valid until {timezone.localtime(config.ends_at):%Y-%m-%d %H:%M}" in shown()
    assert reverse("acl:map-renew") not in shown()


def test_a_rental_that_is_over_says_so_in_the_head(browser: Client, rental: Rental) -> None:
    now = timezone.now()
    for change, word in (
        ({"paused_at": now}, "Paused"),
        ({"paused_at": None, "ends_at": now, "runs_until": now}, "Expired"),
        ({"closed_at": now}, "Closed"),
    ):
        Rental.objects.filter(pk=rental.pk).update(**change)
        (said,) = re.findall(r'<p id="relays-overall"(.*?)</p>', browser.get(reverse("home")).text, re.DOTALL)
        assert f">{word}<" in said
