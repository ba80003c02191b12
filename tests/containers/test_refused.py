"""Certificates that every client refuses are found from the rows, and by the panel's own test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from django.utils import timezone

from tests.containers.rentals import DAY, prove
from tests.factories import RelayFactory, RentalFactory

if TYPE_CHECKING:
    from containers.models import Relay
    from serials.rentals.models import Rental

pytestmark = pytest.mark.django_db
NEW_ADDRESS = "198.51.100.7"


def move_server(relay: Relay) -> None:
    """An operator gives the relay's server another address, and the bell that rings for it is lost."""
    from fleet import services

    services.update_server(server=relay.server, by=None, address=NEW_ADDRESS)


def sweep() -> None:
    from containers import jobs

    jobs.check_certificates()
    jobs.sweep()


def test_relays_get_certificates_for_their_servers_new_address_when_no_bell_rang(
    rental: Rental, announced: list[tuple[str, int]]
) -> None:
    stays, moves = rental.relays.get(slot=1), rental.relays.get(slot=2)
    move_server(moves)
    announced.clear()
    sweep()
    sweep()
    pin = moves.certificate_sha256
    moves.refresh_from_db()
    assert (moves.certificate_address, moves.status) == (NEW_ADDRESS, "planned")
    assert moves.certificate_sha256 != pin
    assert announced == [("relay_to_apply", moves.pk)]
    prove(rental)
    sweep()
    moves.refresh_from_db()
    assert moves.status == "running"
    assert rental.relays.get(slot=1).certificate_sha256 == stays.certificate_sha256


def test_the_relays_that_a_killed_job_did_not_reach_follow_their_server_too(
    rental: Rental, monkeypatch: pytest.MonkeyPatch, announced: Any
) -> None:
    from containers import jobs
    from containers.models import Relay
    from containers.services import relay_certificates

    first = rental.relays.get(slot=1)
    second = RelayFactory(rental=RentalFactory(), server=first.server)
    renew, renewed = relay_certificates.renew_certificate, []

    def die_after_one(**given: Any) -> None:
        if renewed:
            raise SystemExit
        renewed.append(given)
        renew(**given)

    move_server(first)
    with monkeypatch.context() as dying:
        dying.setattr(relay_certificates, "renew_certificate", die_after_one)
        with pytest.raises(SystemExit):
            jobs.follow_server(first.server_id)
    sweep()
    addresses = Relay.objects.filter(pk__in=[first.pk, second.pk]).values_list(
        "certificate_address", "status"
    )
    assert list(addresses) == [(NEW_ADDRESS, "planned")] * 2


def test_a_certificate_that_ended_before_there_was_a_successor_is_replaced_at_once(
    rental: Rental, announced: list[tuple[str, int]]
) -> None:
    from containers.models import Relay

    relay = rental.relays.get(slot=1)
    Relay.objects.filter(pk=relay.pk).update(certificate_ends_at=timezone.now(), status="failed")
    sweep()
    fresh = Relay.objects.get(pk=relay.pk)
    assert fresh.certificate_ends_at > timezone.now() + 300 * DAY
    assert (fresh.status, fresh.slot) == ("planned", 1)
    assert fresh.certificate_sha256 != relay.certificate_sha256


def test_what_is_leaving_gets_no_new_certificate(rental: Rental, announced: Any) -> None:
    from containers.models import Relay

    going, retiring = rental.relays.get(slot=1), rental.relays.get(slot=2)
    Relay.objects.filter(pk=going.pk).update(status="removing", slot=None, certificate_address=NEW_ADDRESS)
    Relay.objects.filter(pk=retiring.pk).update(
        slot=None, retiring_since=timezone.now(), certificate_ends_at=timezone.now() - DAY
    )
    sweep()
    for relay in (going, retiring):
        assert Relay.objects.get(pk=relay.pk).certificate_sha256 == relay.certificate_sha256
