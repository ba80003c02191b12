"""Lists cost the same however long they are."""

import time
from typing import Any

import pytest
from django.contrib import admin
from django.core.cache import cache
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from accounts.alerts.models import AlertRule
from accounts.alerts.route_models import AlertDelivery, AlertRoute, AlertTelling
from accounts.models import User
from acl.devices import presence
from containers.models import Deployment, Relay, RelayHealth, ServerCheck
from derpmgmt.lib.matters import read_matters
from fleet.models import Server
from serials.rentals.models import Rental
from tests.factories import (
    AlertFactory,
    DeploymentFactory,
    PutOffFactory,
    RelayFactory,
    RelayHealthFactory,
    SerialBatchFactory,
    ServerCheckFactory,
    ServerFactory,
    WholeRentalFactory,
)
from tests.panel import world

pytestmark = [pytest.mark.django_db, pytest.mark.slow]


def count(client: Client, url: str) -> int:
    """How many queries a page takes when it is asked for again."""
    client.get(url)
    with CaptureQueriesContext(connection) as queries:
        assert client.get(url).status_code == 200, url
    return len(queries)


def trouble() -> None:
    """One more of everything that an operator has to look at."""
    rental = WholeRentalFactory()
    first, second, _third = rental.relays.order_by("slot")
    Relay.objects.filter(pk=first.pk).update(status=Relay.Status.FAILED, failed_at=timezone.now())
    Deployment.objects.filter(relay=first).update(status=Deployment.Status.FAILED, error="no room")
    RelayHealth.objects.filter(relay=second).update(is_ok=False, cause="refused")
    DeploymentFactory(relay=second, status=Deployment.Status.ERRORED, finished_at=timezone.now())
    short = WholeRentalFactory()
    short.relays.filter(slot=3).update(slot=None, status=Relay.Status.RELEASED)
    PutOffFactory(row=rental.pk)
    SerialBatchFactory(is_paid=False)
    ServerFactory(whole=True, status=Server.Status.UNHEALTHY, status_reason="down")
    ServerFactory(whole=True, status=Server.Status.MAINTENANCE)
    ServerFactory(whole=True, status=Server.Status.NEW, host_key="")
    checked = ServerFactory(whole=True, status=Server.Status.NEW)
    ServerCheckFactory(server=checked, status=ServerCheck.Status.FAILED, error="closed")


def more() -> None:
    """A customer with three servers, and one more row of lists that they do not fill."""
    rental = WholeRentalFactory()
    PutOffFactory(row=rental.pk)
    server = rental.relays.wanted()[0].server_id
    AlertRule.objects.create(rule="disk", server=server)
    alert = AlertFactory(server=server, customer=rental.user)
    route = AlertRoute.objects.create(name=f"route {rental.pk}", by=AlertRoute.By.STAFF)
    first, second = (AlertDelivery.objects.create(route=route, key=key, what="alerts") for key in ("a", "b"))
    AlertDelivery.objects.filter(pk=second.pk).update(instead_of=first)
    AlertTelling.objects.create(alert=alert, route=route, delivery=first, what="raised", severity="warning")


def test_every_list_of_the_admin_costs_the_same_when_it_is_longer() -> None:
    client = world.enter(User.Role.SUPERADMIN, has_factor=True)
    lists = [
        reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")
        for model in admin.site._registry
    ]
    for _ in range(2):
        more()
    few = {url: count(client, url) for url in lists}
    for _ in range(6):
        more()
    assert {url: count(client, url) for url in lists} == few


def test_the_start_page_of_the_admin_costs_the_same_when_there_is_more_trouble() -> None:
    client = world.enter(User.Role.ADMIN, has_factor=True)
    trouble()
    few = count(client, reverse("admin:index"))
    for _ in range(4):
        trouble()
    assert len(read_matters()) > 30
    assert count(client, reverse("admin:index")) == few <= 31


def test_a_checks_page_costs_the_same_when_there_were_many_checks() -> None:
    client = world.enter(User.Role.ADMIN, has_factor=True)
    server = ServerFactory(whole=True)
    url = reverse("admin:containers_server_check", args=[server.pk])
    ServerCheckFactory(server=server, done=True)
    few = count(client, url)
    for _ in range(5):
        ServerCheckFactory(server=server, status=ServerCheck.Status.FAILED)
    assert count(client, url) == few


@pytest.mark.parametrize(
    ("name", "most"), [("home", 10), ("home-relays", 8), ("home-map", 8), ("home-devices", 5)]
)
def test_a_customers_home_costs_the_same_when_much_has_happened(name: str, most: int) -> None:
    rental = WholeRentalFactory()
    world.add_devices(rental)
    client = world.sign_in(rental.user)
    few = count(client, reverse(name))
    past: dict[str, Any] = {"status": Relay.Status.RELEASED}
    for _ in range(5):
        RelayFactory(rental=rental, slot=None, server=ServerFactory(whole=True), whole=True, **past)
        for relay in Rental.objects.get(pk=rental.pk).relays.wanted():
            RelayHealthFactory(relay=relay, is_ok=True)
            DeploymentFactory(relay=relay, status=Deployment.Status.FAILED)
    world.add_devices(rental, 5)
    WholeRentalFactory()
    assert count(client, reverse(name)) == few <= most


def test_a_customers_home_costs_the_same_however_many_are_connected() -> None:
    rental = WholeRentalFactory()
    world.add_devices(rental)
    client = world.sign_in(rental.user)

    def connect() -> None:
        keys = rental.devices.exclude(status="pending").values_list("node_key", flat=True)
        relay = rental.relays.get(slot=1)
        present = {key: (relay.pk, "198.51.100.7", 4000, time.time()) for key in keys}
        kept = {"at": time.time(), "present": present, "silent": [], "is_known": True}
        cache.set(presence._key(rental.pk), kept, 60)

    connect()
    few = count(client, reverse("home"))
    world.add_devices(rental, 5)
    connect()
    # One more: whom of those connected a waiting one looks like.
    assert count(client, reverse("home")) == few <= 11


@pytest.mark.parametrize("name", ["device-list", "device-state", "device-lists", "admission-list"])
def test_a_customers_devices_cost_the_same_when_there_are_many(name: str) -> None:
    rental = WholeRentalFactory()
    client = world.sign_in(rental.user)
    url = reverse(f"acl:{name}")
    world.add_devices(rental, 1)
    few = count(client, url)
    world.add_devices(rental, 60)
    assert count(client, url) == few <= 22
    # Where that page is behind the last of a list that is not counted: the look at it, and a count.
    assert count(client, f"{url}?q=198&page=2&revoked=2&connected=3") in {few, few + 2}
