"""A demo that looks as a panel does after some weeks: run by `manage.py shell` in its folder."""

import random
from datetime import timedelta

from django.utils import timezone

from accounts.models import User
from acl.devices.models import Device
from containers.models import Relay, RelayHealth
from serials.rentals.models import Rental
from tests.factories import (
    AdmissionFactory,
    ChannelFactory,
    DeviceFactory,
    PutOffFactory,
    SerialBatchFactory,
    UserFactory,
)

NAMES = (
    "书房的 NAS",
    "MacBook Pro",
    "iPhone 小王",
    "办公室台式机",
    "杭州机房 web-1",
    "树莓派",
    "客厅 Apple TV",
)
PROOFS_A_DAY = 96


def _key(dice: random.Random) -> str:
    return f"{dice.getrandbits(256):064x}"


def seed() -> None:
    """Devices, knocks, proofs and notices of the demo's customer, and other people and serial numbers around them."""
    dice = random.Random(7)
    now = timezone.now()
    customer = User.objects.get(email="customer@example.com")
    rental = Rental.objects.get(user=customer)
    for number, name in enumerate(NAMES):
        DeviceFactory(
            rental=rental,
            name=name,
            node_key=_key(dice),
            approved=True,
            approved_at=now - timedelta(days=number, hours=2),
            last_seen_at=now - timedelta(minutes=number),
        )
    for number in range(2):
        DeviceFactory(
            rental=rental, node_key=_key(dice), knocks=2, last_seen_at=now - timedelta(minutes=3 + number)
        )
    DeviceFactory(rental=rental, name="旧手机", node_key=_key(dice), status=Device.Status.REVOKED)
    relays = list(Relay.objects.filter(rental=rental))
    for number in range(40):
        AdmissionFactory(
            relay=dice.choice(relays), node_key=_key(dice), at=now - timedelta(minutes=17 * number)
        )
    RelayHealth.objects.bulk_create(
        RelayHealth(
            relay=relay,
            at=now - timedelta(minutes=15 * number),
            is_ok=(is_ok := dice.random() > 0.02),
            handshake_ms=dice.uniform(18, 34) if is_ok else None,
            packet_ms=dice.uniform(8, 15) if is_ok else None,
            stun_ms=dice.uniform(7, 14) if is_ok else None,
        )
        for relay in relays
        for number in range(1, PROOFS_A_DAY)
    )
    ChannelFactory(user=customer)
    for number in range(40):
        UserFactory(email=f"customer{number}@example.com", username=f"customer{number}")
    admin = User.objects.get(email="superadmin@example.com")
    SerialBatchFactory(name="双十一活动", count=30, days=90, by=admin)
    PutOffFactory(row=rental.pk)
