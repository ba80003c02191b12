"""Customers, servers and relays as the map needs them."""

import hashlib
import itertools
from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone

from accounts.models import User
from acl.maps import services
from containers.models import Relay
from fleet.models import Region, Server, SshCredential
from serials.rentals.models import Redemption, Rental, RentalSpan

_numbers = itertools.count(1)


def make_user(email: str = "", **fields: Any) -> User:
    number = next(_numbers)
    user = User(email=email or f"c{number}@example.com", username=f"c{number}", **fields)
    user.set_unusable_password()
    user.save()
    return user


def make_rental(user: User | None = None, *, days: float = 30, is_paid: bool = True) -> Rental:
    """A rental that began a day ago, from one redeemed serial number."""
    now = timezone.now()
    starts_at, ends_at = now - timedelta(days=1), now + timedelta(days=days)
    rental = Rental.objects.create(user=user or make_user(language="en"), ends_at=ends_at, runs_until=ends_at)
    redemption = Redemption.objects.create(
        rental=rental,
        kind=Redemption.Kind.SERIAL,
        unpaid_since=None if is_paid else now,
        granted_seconds=int((ends_at - starts_at).total_seconds()),
        new_ends_at=ends_at,
    )
    RentalSpan.objects.create(
        rental=rental,
        redemption=redemption,
        starts_at=min(starts_at, ends_at - timedelta(hours=1)),
        ends_at=ends_at,
    )
    return rental


def set_paid(rental: Rental, paid_at: datetime | None) -> None:
    """Whether what `rental` runs on is paid for."""
    rental.redemptions.update(unpaid_since=None if paid_at else timezone.now())


def make_server(code: str = "sh", name_zh: str = "上海", name_en: str = "Shanghai") -> Server:
    number = next(_numbers)
    region, _ = Region.objects.get_or_create(
        code=code, defaults={"name_zh": name_zh, "name_en": name_en, "latitude": 31.23, "longitude": 121.47}
    )
    credential, _ = SshCredential.objects.get_or_create(name="key")
    return Server.objects.create(
        name=f"s{number}",
        region=region,
        credential=credential,
        address=f"203.0.{number // 250}.{number % 250 + 1}",
    )


def make_relay(rental: Rental, *, slot: int | None = 1, server: Server | None = None, **fields: Any) -> Relay:
    """A relay that has carried a packet and runs."""
    number = next(_numbers)
    server = server or make_server()
    now = timezone.now()
    values: dict[str, Any] = {
        "status": Relay.Status.RUNNING,
        "derp_port": 20000 + number,
        "stun_port": 30000 + number,
        "certificate": "-",
        "certificate_key": "-",
        "certificate_sha256": hashlib.sha256(str(number).encode()).hexdigest(),
        "certificate_address": server.address,
        "certificate_ends_at": now + timedelta(days=365),
        "private_key": "-",
        "public_key": f"{number:064x}",
        "mesh_key": "-",
        "proven_at": now,
    }
    return Relay.objects.create(rental=rental, slot=slot, server=server, **(values | fields))


def make_served_rental(*, relays: int = 1, days: float = 60) -> Rental:
    """A rental whose relays run in places 1, 2, …, and the first version of its map."""
    rental = make_rental(days=days)
    for slot in range(1, relays + 1):
        make_relay(rental, slot=slot)
    services.refresh_map(rental=rental, reason=services.RELAYS_CHANGED)
    return rental
