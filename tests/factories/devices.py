"""Maps and devices, and rentals that have all of it."""

from typing import Any

import factory
from django.utils import timezone

from acl.devices import services as devices
from acl.devices.models import Admission, Device, DevicePolicy
from acl.devices.node_keys import NewDevice
from acl.maps import services as maps
from acl.maps.models import AclEvent, LiveUrl, MapRegion
from containers.services import gates
from derpmgmt.lib.crypto import keyed_hash
from serials.rentals.models import Rental
from tests.factories.base import RowFactory, ServiceFactory
from tests.factories.relays import RelayFactory, ServerCheckFactory
from tests.factories.rentals import RedeemedRentalFactory, RentalFactory
from tests.factories.servers import ServerFactory


class MapRegionFactory(RowFactory[MapRegion]):
    class Meta:
        model = MapRegion


class AclEventFactory(RowFactory[AclEvent]):
    class Meta:
        model = AclEvent


class LiveUrlFactory(RowFactory[LiveUrl]):
    class Meta:
        model = LiveUrl

    secret = factory.Sequence(lambda n: f"live-secret-{n}")
    secret_hash = factory.LazyAttribute(lambda url: keyed_hash("live url", url.secret))


class DevicePolicyFactory(RowFactory[DevicePolicy]):
    """Devices are checked, and no window is open in which they are approved by themselves."""

    class Meta:
        model = DevicePolicy


class DeviceFactory(RowFactory[Device]):
    """One that waits for its customer's word."""

    class Meta:
        model = Device

    class Params:
        approved = factory.Trait(
            status=Device.Status.APPROVED, approved_at=factory.LazyFunction(timezone.now)
        )

    node_key = factory.Sequence(lambda n: f"{n:064x}")


class AddedDeviceFactory(DeviceFactory, ServiceFactory[Device]):
    """One that its customer has added by its node key. `is_let_in`: and that the relay in place 1 has let in and seen."""

    class Meta:
        model = Device

    name = factory.LazyAttribute(lambda device: f"nas-{device.node_key[-4:]}")

    @classmethod
    def _make(cls, **fields: Any) -> Device:
        rental, new = fields["rental"], NewDevice(fields["node_key"], fields["name"])
        return devices.add_devices(rental=rental, devices=[new], by=rental.user).added[0]

    @factory.post_generation
    def is_let_in(device: Device, create: bool, is_asked: bool | None, **_fields: Any) -> None:
        if is_asked:
            relay = device.rental.relays.get(slot=1)
            asked = devices.Asked(
                relay.pk, device.rental_id, device.node_key, "198.51.100.7", True, Admission.Reason.APPROVED,
                at=timezone.now(),
            )  # fmt: skip
            devices.record_admissions([asked])
            devices.record_seen([asked])


class AdmissionFactory(RowFactory[Admission]):
    """A question of a device that was refused, since nobody knows it."""

    class Meta:
        model = Admission

    rental = factory.SelfAttribute("relay.rental")
    node_key = factory.Sequence(lambda n: f"{n:064x}")
    is_allowed = False
    reason = Admission.Reason.UNKNOWN


class ServedRentalFactory(RentalFactory):
    """A rental of which `relays` relays run (one unless told), in the places 1, 2, …, and the first version of its map."""

    class Meta:
        model = Rental

    @factory.post_generation
    def relays(rental: Rental, create: bool, count: int | None, **fields: Any) -> None:
        for slot in range(1, (count or 1) + 1):
            RelayFactory(rental=rental, slot=slot, **fields)
        maps.refresh_map(rental=rental, reason=maps.RELAYS_CHANGED)


class WholeRentalFactory(RedeemedRentalFactory):
    """A rental with all that a customer can have.

    Three relays run, each on a checked server of its own, the map was downloaded, there is a live URL, and a device was let in.
    """

    class Meta:
        model = Rental

    @factory.post_generation
    def belongings(rental: Rental, create: bool, _given: object, **_fields: Any) -> None:
        for slot in (1, 2, 3):
            server = ServerFactory(whole=True)
            RelayFactory(rental=rental, slot=slot, server=server, whole=True)
            ServerCheckFactory(server=server, done=True)
            gates.record_running(gate=gates.gate_of(server.pk), image="-", now=timezone.now())
        maps.refresh_map(rental=rental, reason=maps.RELAYS_CHANGED)
        maps.record_event(
            rental=rental, kind=AclEvent.Kind.DOWNLOADED, version=1, by=rental.user, ip="198.51.100.7"
        )
        maps.create_live_url(rental=rental, by=rental.user)
        AddedDeviceFactory(rental=rental, is_let_in=True)
        devices.open_window(rental=rental, length=devices.WINDOWS[0], by=rental.user)
