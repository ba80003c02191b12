"""What happens to a map in the tests of its versions."""

from datetime import datetime, timedelta

import time_machine
from django.test import Client
from django.utils import timezone

from acl.maps import derpmap, jobs, services
from acl.maps.models import AclConfig, LiveUrl, MapRegion
from containers.models import Relay
from serials.rentals.models import Rental
from tests.acl.reading import path_of
from tests.factories import RelayFactory


def active(rental: Rental) -> AclConfig:
    config = services.active_config(rental)
    assert config
    return config


def take(rental: Rental) -> None:
    services.hand_out_map(rental=rental, file_format=derpmap.MapFormat.HUJSON, by=rental.user)


def fetch(rental: Rental, moment: datetime, browser: str = "Go-http-client/1.1") -> None:
    """`browser` fetches the map by the live URL, as the log has it."""
    url = LiveUrl.objects.get(rental=rental, revoked_at=None)
    with time_machine.travel(moment, tick=False):
        Client().get(path_of(url), headers={"User-Agent": browser})
        services.record_fetches()


def sweep_at(moment: datetime, times: int = 1) -> None:
    with time_machine.travel(moment, tick=False):
        for _ in range(times):
            jobs.sweep_maps()


def move(relay: Relay) -> None:
    Relay.objects.filter(pk=relay.pk).update(certificate_sha256=f"{relay.pk:064x}")


def later(minutes: float = 3) -> datetime:
    return timezone.now() + timedelta(minutes=minutes)


def change_all(rental: Rental) -> None:
    for relay in Relay.objects.wanted():
        move(relay)
    services.refresh_map(rental=rental, reason=services.RELAYS_CHANGED)


def rotate(rental: Rental) -> list[Relay]:
    """Successors of all relays take their places over, one after the other; returns the old ones, which run on."""
    old = list(Relay.objects.wanted())
    for relay in old:
        slot = relay.slot
        Relay.objects.filter(pk=relay.pk).update(slot=None, retiring_since=timezone.now())
        RelayFactory(rental=rental, slot=slot)
        services.refresh_map(rental=rental, reason=services.RELAYS_CHANGED)
        MapRegion.objects.filter(rental=rental).update(changed_at=None)  # a minute has passed
    return old


def remove(rental: Rental, relays: list[Relay]) -> None:
    now = timezone.now() - timedelta(minutes=1)
    Relay.objects.filter(pk__in=[relay.pk for relay in relays]).update(
        status="released", slot=None, released_at=now
    )
    services.refresh_map(rental=rental, reason=services.RELAYS_CHANGED)


def make_old_url(rental: Rental) -> LiveUrl:
    url = services.create_live_url(rental=rental, by=rental.user)
    LiveUrl.objects.filter(revoked_at=None).update(created_at=later(-60 * 24))
    return url


def set_paid(rental: Rental, paid_at: datetime | None) -> None:
    """Whether what `rental` runs on is paid for."""
    rental.redemptions.update(unpaid_since=None if paid_at else timezone.now())
