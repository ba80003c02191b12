"""Traffic as customers and operators read it: home, lists, tabs, files."""

import html
import re
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from containers.models import Relay, TrafficMonth
from containers.services.traffic import month_of
from serials.rentals.models import Rental
from tests.factories import RelayFactory, WholeRentalFactory
from tests.panel import world

pytestmark = pytest.mark.django_db


def month(relay: Relay, up: int, down: int, **more: Any) -> None:
    """What flowed through a relay in its customer's month."""
    assert relay.rental
    values = {"begins_on": month_of(relay.rental, timezone.now()), "read_at": timezone.now()} | more
    TrafficMonth.objects.create(relay=relay, rental=relay.rental, up_bytes=up, down_bytes=down, **values)


@pytest.fixture
def rental() -> Rental:
    """A customer of whose allowance of 100 GB three relays and one from before have used a part."""
    rental = WholeRentalFactory()
    rental.spans.update(quota_bytes=100 * 10**9)
    first, second, _third = rental.relays.wanted()
    month(first, 10**9, 2 * 10**9, up_rate=80_000, down_rate=2_500_000)
    month(second, 10**7, 10**7, up_rate=1, down_rate=1, read_at=timezone.now() - timedelta(minutes=5))
    gone = RelayFactory(rental=rental, slot=None, status=Relay.Status.RELEASED)
    month(gone, 3 * 10**9, 4 * 10**9)
    month(gone, 9**12, 9**12, begins_on=month_of(rental, timezone.now() - timedelta(days=40)))
    return rental


def read(client: Client, url: str) -> str:
    """A page's text in English."""
    client.post(reverse("accounts:language-set"), {"language": "en"})
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", client.get(url).content.decode())).split())


def test_home_says_what_was_used_and_is_left_and_what_flows_now(rental: Rental) -> None:
    page = read(world.sign_in(rental.user), reverse("home"))
    assert "10.02 GB of 100 GB used this month, 89.98 GB left" in page
    assert "up 4.01 GB · down 6.01 GB" in page
    assert "Up 640 kbit/s Down 20 Mbit/s" in page
    # Of a relay that was not read lately nobody knows.
    assert page.count("Up – Down –") == 2


def test_home_says_what_was_used_without_an_allowance(rental: Rental) -> None:
    rental.spans.update(quota_bytes=None)
    page = read(world.sign_in(rental.user), reverse("home"))
    assert "10.02 GB of traffic this month" in page
    assert "left this month" not in page


def test_nothing_is_left_when_more_was_used(rental: Rental) -> None:
    rental.spans.update(quota_bytes=10**10)
    page = read(world.sign_in(rental.user), reverse("home"))
    assert "10.02 GB of 10 GB used this month, 0 B left" in page
