"""What is left to do until a customer's first device is in, as the rows tell; nothing is written down for it."""

from dataclasses import dataclass
from datetime import datetime

from acl.devices.models import Admission, Device
from acl.devices.services.places import window_until
from acl.maps.models import AclEvent, LiveUrl
from containers.models import Relay
from serials.rentals.models import Rental


@dataclass(frozen=True)
class FirstRun:
    """The four steps, in their order, and what the last one waits for.

    The map counts as saved once a device has asked a relay to be let in, or somebody has fetched the live URL: nobody can without it.
    Until `window_until` new devices are approved by themselves, None = none are; `waiting` is how many wait for their customer.
    """

    has_relays: bool
    is_copied: bool
    is_saved: bool
    has_device: bool
    window_until: datetime | None = None
    waiting: int = 0

    @property
    def current(self) -> str:
        """The first step that is not done: relays, copy, save or device; "" when all are."""
        steps = {
            "relays": self.has_relays,
            "copy": self.is_copied,
            "save": self.is_saved,
            "device": self.has_device,
        }
        return next((name for name, is_done in steps.items() if not is_done), "")


def describe_first_run(*, rental: Rental, now: datetime) -> FirstRun:
    """How far a customer has come; few, fixed queries."""
    statuses = set(Relay.objects.wanted().filter(rental=rental).values_list("status", flat=True))
    devices = Device.objects.filter(rental=rental)
    until = window_until(rental)
    is_fetched = LiveUrl.objects.filter(rental=rental, last_fetched_at__isnull=False).exists()
    is_saved = is_fetched or Admission.objects.filter(rental=rental).exists()
    return FirstRun(
        has_relays=statuses == {Relay.Status.RUNNING},
        is_copied=is_saved
        or AclEvent.objects.filter(rental=rental, kind=AclEvent.Kind.DOWNLOADED, by=rental.user_id).exists(),
        is_saved=is_saved,
        has_device=devices.filter(Device.came_in()).exists(),
        window_until=until if until > now else None,
        waiting=devices.filter(Device.waiting(now)).count(),
    )
