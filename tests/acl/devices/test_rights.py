"""Who has rights, and which device has a place: queries, the hot path's SQL and Python say the same of every row."""

import itertools
from datetime import UTC, datetime, timedelta

import pytest
import time_machine

from acl.devices import admission
from acl.devices.models import Device
from acl.devices.services.places import admitted, placed
from serials.rentals.models import Rental
from tests.acl.asking import A
from tests.factories import RelayFactory, RentalFactory, ServerFactory, UserFactory

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
MOMENT = timedelta(microseconds=1)
TIMES = (None, NOW - timedelta(days=400), NOW - MOMENT, NOW, NOW + MOMENT, NOW + timedelta(days=400))


def make_rentals() -> list[Rental]:
    """A rental of each kind: whether it is paused, closed, when it ends, and what became of the account."""
    accounts = [{}, {"banned_at": NOW}, {"closing_at": NOW}, {"closing_at": NOW, "closed_at": NOW}]
    kinds = itertools.product((None, NOW), (None, NOW), TIMES, accounts)
    return [
        RentalFactory(
            paused_at=paused_at, closed_at=closed_at, runs_until=runs_until, user=UserFactory(**account)
        )
        for paused_at, closed_at, runs_until, account in kinds
    ]


@pytest.mark.slow
def test_queries_the_hot_path_and_python_agree_on_who_has_rights() -> None:
    rentals, server = make_rentals(), ServerFactory()
    relays = {RelayFactory(rental=rental, slot=None, server=server).pk: rental.pk for rental in rentals}
    with time_machine.travel(NOW, tick=False):
        found = admission._find({(relay, A) for relay in relays})
    by_sql = {relays[relay]: row for (relay, _key), row in found.items()}

    entitled = {rental.pk for rental in rentals if rental.is_entitled(NOW)}
    assert len(entitled) == 2 * 4
    assert set(Rental.objects.entitled(NOW).values_list("pk", flat=True)) == entitled
    assert {pk for pk, row in by_sql.items() if row.is_entitled} == entitled
    with_rights = {rental.pk for rental in rentals if rental.has_rights(NOW)}
    assert len(with_rights) == 2
    assert set(Rental.objects.with_rights(NOW).values_list("pk", flat=True)) == with_rights
    assert {pk for pk, row in by_sql.items() if row.is_entitled and row.is_active} == with_rights


def test_rights_follow_every_way_of_writing_a_rental() -> None:
    rental = RentalFactory()
    until = NOW + timedelta(days=3)
    rental.runs_until = until
    rental.save()
    rows = Rental.objects.filter(pk=rental.pk)
    assert rows.values_list("entitled_until", flat=True).get() == until
    rental.paused_at = NOW
    rental.save(update_fields=["paused_at"])
    assert rows.values_list("entitled_until", flat=True).get() is None
    rows.update(paused_at=None)
    assert rows.values_list("entitled_until", flat=True).get() == until
    rows.update(closed_at=NOW)
    assert rows.values_list("entitled_until", flat=True).get() is None


def test_queries_the_hot_path_and_python_agree_on_what_a_device_may() -> None:
    rental = RentalFactory(days=600)
    relay = RelayFactory(rental=rental)
    kinds = itertools.product(Device.Status, TIMES, (None, NOW - timedelta(minutes=2)), (None, NOW))
    devices = [
        Device(
            rental=rental,
            node_key=f"{number:064x}",
            status=status,
            trial_until=trial_until,
            stayed_at=stayed_at,
            left_at=left_at,
        )
        for number, (status, trial_until, stayed_at, left_at) in enumerate(kinds)
    ]
    Device.objects.bulk_create(devices)
    with time_machine.travel(NOW, tick=False):
        found = admission._find({(relay.pk, device.node_key) for device in devices})

    def keys(rows: object) -> set[str]:
        return {device.node_key for device in rows}  # type: ignore[attr-defined]

    on_trial = {device.node_key for device in devices if device.is_on_trial(NOW)}
    assert len(on_trial) == 2 * 2 * 2
    assert keys(Device.objects.filter(Device.on_trial(NOW))) == on_trial
    assert {key for (_relay, key), row in found.items() if row.is_on_trial} == on_trial
    with_place = {device.node_key for device in devices if device.is_placed(NOW)}
    assert keys(placed(rental, NOW)) == with_place
    assert with_place - keys(Device.objects.filter(Device.provisional(NOW))) == {
        device.node_key for device in devices if device.status == Device.Status.APPROVED
    }
    assert with_place < keys(admitted(rental, NOW))
    assert keys(admitted(rental, NOW)) - with_place <= on_trial
    assert not on_trial & keys(Device.objects.filter(Device.waiting(NOW)))
