"""A relay's charts: what flows through it, on its own page and on its customer's."""

import time

import pytest
from django.urls import reverse
from django.utils import timezone

from containers.graphs import RELAY_GRAPHS
from containers.models import RelayHealth
from containers.sample_models import RELAY_FIGURES, RelaySample
from containers.services.client_latency import record_client_latency
from tests.factories import RelayHealthFactory, WholeRentalFactory
from tests.panel import world

pytestmark = pytest.mark.django_db


def test_every_line_is_a_figure_of_samples() -> None:
    for graph in RELAY_GRAPHS.values():
        for _label, figure in graph.lines:
            assert figure.removesuffix("_max") in RELAY_FIGURES


def test_operators_see_what_flows_through_a_relay() -> None:
    relay = WholeRentalFactory().relays.first()
    RelaySample.objects.create(relay=relay, at=int(time.time()), up_rate=10, down_rate=20, connections=3)
    client = world.enter("admin", has_factor=True)
    base = f"/admin/containers/relay/{relay.pk}"
    said = client.get(f"{base}/graph/rate/?range=1h").json()
    ups, downs, *_highest = ([value for value in line["y"] if value is not None] for line in said["lines"])
    assert (ups, downs) == ([10], [20])
    assert client.get(f"{base}/graph/nothing/").status_code == 404
    page = client.get(f"{base}/change/?tab=graphs").text
    assert all(f'data-chart="{base}/graph/{name}/?range=24h"' in page for name in RELAY_GRAPHS)


def test_jitter_and_loss_stand_beside_the_round_trips_for_operators_and_the_customer() -> None:
    rental = WholeRentalFactory()
    relay = rental.relays.first()
    RelayHealth.objects.all().delete()
    RelayHealthFactory(relay=relay, tcp_jitter_ms=0.5, stun_jitter_ms=None, stun_loss=0.25)
    record_client_latency(times={relay.pk: 31.5}, now=timezone.now())
    admin, own = world.enter("admin", has_factor=True), world.sign_in(rental.user)
    measured = {
        "latency": ("ms", [[3.1], [1.2], [0.8], [31.5]]),
        "jitter": ("ms", [[0.5], []]),
        "loss": ("share", [[0.25]]),
    }
    tab, page = (
        admin.get(f"/admin/containers/relay/{relay.pk}/change/?tab=graphs").text,
        own.get("/traffic/").text,
    )
    for name, (unit, values) in measured.items():
        for browser, shown, url in (
            (admin, tab, f"/admin/containers/relay/{relay.pk}/graph/{name}/"),
            (own, page, reverse("containers:relay-graph", args=[relay.pk, name])),
        ):
            assert url in shown
            said = browser.get(url).json()
            assert said["unit"] == unit
            assert [[value for value in line["y"] if value is not None] for line in said["lines"]] == values


def test_a_customers_page_has_the_charts_of_their_relays_and_of_nobody_elses() -> None:
    rental, other = WholeRentalFactory(), WholeRentalFactory()
    client = world.enter("admin", has_factor=True)
    page = client.get(f"/admin/accounts/user/{rental.user_id}/change/?tab=graphs").text
    for relay in rental.relays.all():
        assert f"/admin/containers/relay/{relay.pk}/graph/rate/?range=24h" in page
    for relay in other.relays.all():
        assert f"/admin/containers/relay/{relay.pk}/graph/" not in page
    own = world.sign_in(rental.user)
    assert own.get(f"/admin/containers/relay/{rental.relays.first().pk}/graph/rate/").status_code in {
        302,
        403,
    }


def test_a_relays_page_begins_with_its_state_and_keeps_its_form() -> None:
    relay = WholeRentalFactory().relays.first()
    client = world.enter("admin", has_factor=True)
    page = client.get(f"/admin/containers/relay/{relay.pk}/change/").text
    assert relay.public_key in page
    assert "?tab=graphs" in page
