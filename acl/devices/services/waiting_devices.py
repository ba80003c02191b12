"""Devices that wait for their customer's word: what they are told of them, and when they are forgotten."""

from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import Q, QuerySet
from django.urls import reverse
from django.utils import timezone, translation
from django.utils.translation import gettext_lazy

from accounts.services import notify
from accounts.sweeps import sweep
from accounts.works import Work, declare
from acl.devices.models import Device, DevicePolicy
from acl.devices.services.device_panel import relay_names
from serials.rentals.models import Rental
from serials.rentals.services import lock_rental

# Devices that wait, for one customer; whoever knocked only once goes first, and after this time in any case.
MOST_WAITING = 20
FORGET_SINGLE_AFTER = timedelta(minutes=10)
FORGET_WAITING_AFTER = timedelta(days=30)
# So long a device was on trial that went may take to come again and be known.
FORGET_GONE_AFTER = timedelta(hours=1)
# A customer is told of devices that knock for longer than a diagnosis takes, and at most once in this time.
KNOCKS_FOR = timedelta(seconds=30)
TELL_PAUSE = timedelta(hours=6)
# Customers of whom one sweep tells so many.
TELL_AT_ONCE = 1000


def forget_waiting(now: datetime) -> int:
    """Drop the devices that wait no longer (a single knock a while ago, or none for a month), and those that went while on trial."""
    is_over = (
        Q(left_at=None, knocks__lte=1, last_seen_at__lte=now - FORGET_SINGLE_AFTER)
        | Q(last_seen_at__lte=now - FORGET_WAITING_AFTER)
        | Q(left_at__lte=now - FORGET_GONE_AFTER)
    )
    return Device.objects.filter(is_over, status=Device.Status.PENDING, trial_until=None).delete()[0]


def tell_waiting(now: datetime) -> int:
    """Tell customers of devices that knock again and again and wait for their word; returns how many were told.

    Once a device, and rarely a customer: those who knock are strangers as often as not.
    """
    return sweep(TELLING, now=now)


def _untold(now: datetime) -> QuerySet[Device]:
    """The devices of which their customers are to hear."""
    waiting = Device.objects.filter(
        status=Device.Status.PENDING,
        trial_until=None,
        left_at=None,
        knocks__gt=1,
        told_at=None,
        first_seen_at__lte=now - KNOCKS_FOR,
        last_seen_at__gt=now - FORGET_SINGLE_AFTER,
        rental__in=Rental.objects.with_rights(now),
    )
    # Left out here already: they may be so many that nobody else would have their turn.
    return waiting.exclude(rental__device_policy__told_at__gt=now - TELL_PAUSE)


@transaction.atomic
def _tell(rental_pk: int, now: datetime) -> bool:
    rental = lock_rental(rental_pk)
    devices = list(_untold(now).filter(rental=rental).order_by("pk"))
    if not devices:
        return False
    DevicePolicy.objects.update_or_create(
        rental=rental,
        defaults={"told_at": now},
        create_defaults={"told_at": now, "enrol_until": rental.created_at + DevicePolicy.ENROL_FOR},
    )
    Device.objects.filter(pk__in=[device.pk for device in devices]).update(told_at=now)
    with translation.override(rental.user.language):
        relays = relay_names(rental)
    notify(
        user=rental.user,
        kind="device_waiting",
        key=f"device_waiting:{devices[-1].pk}",
        context={
            "devices": [
                {
                    "key": device.node_key[:8],
                    "ip": device.last_ip or "",
                    "place": device.last_place,
                    "relay": relays.get(device.last_relay_id or 0, ""),
                    "at": f"{timezone.localtime(device.last_seen_at):%Y-%m-%d %H:%M}",
                }
                for device in devices[:MOST_WAITING]
            ],
            "url": f"{settings.PUBLIC_URL}{reverse('acl:device-list')}",
        },
    )
    return True


TELLING = declare(
    Work(
        name="telling of devices that wait",
        title=gettext_lazy("Telling of devices that wait"),
        model=Rental,
        whose="user__email",
        due=lambda now: Rental.objects.filter(pk__in=_untold(now).values("rental")).order_by("pk"),
        do=lambda pks, now: sum(_tell(pk, now) for pk in pks),
        limit=TELL_AT_ONCE,
    )
)
