"""A panel with everything in it once, and people of every role who are signed in to it."""

import itertools
import time
from datetime import timedelta
from typing import Any

from allauth.mfa.totp.internal.auth import format_hotp_value, generate_totp_secret, hotp_value
from django.db.models import Model
from django.test import Client
from django.utils import timezone

from accounts import services as accounts
from accounts.models import PutOff, User
from acl.devices import services as devices
from acl.devices.models import Admission, Device, DevicePolicy
from acl.devices.node_keys import NewDevice
from acl.maps import services as maps
from acl.maps.models import AclConfig, AclEvent, LiveUrl, MapRegion
from containers.models import Deployment, Relay, RelayHealth, ServerCheck
from containers.services import gates
from fleet.models import ProviderAccount, Region, Server, SshCredential
from serials.numbers import services as serials
from serials.numbers.models import SerialBatch
from serials.rentals.models import Rental
from tests.panel.running import free_port

PASSWORD = "quiet-river-42"
_numbers = itertools.count(1)


def make_region() -> Region:
    """A region nobody has seen before."""
    number = next(_numbers)
    return Region.objects.create(code=f"r{number}", name_zh=f"区域{number}", name_en=f"Region {number}")


def make_server(**fields: Any) -> Server:
    """A healthy server in a region of its own, with a credential and a provider account of its own; nothing listens there."""
    number = next(_numbers)
    values: dict[str, Any] = {
        "region": fields.pop("region", None) or make_region(),
        "status": Server.Status.HEALTHY,
        "host_key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f",
        "last_visit_at": timezone.now(),
    }
    return Server.objects.create(
        name=f"server-{number}",
        credential=SshCredential.objects.create(name=f"key {number}"),
        provider_account=ProviderAccount.objects.create(
            provider="aliyun", name=f"a{number}", phone="13800001234"
        ),
        address=f"203.0.{number // 250}.{number % 250 + 1}",
        ssh_host="127.0.0.1",
        ssh_port=free_port(),
        **(values | fields),
    )


def make_batch(**fields: Any) -> SerialBatch:
    """A paid batch of one serial number."""
    return serials.create_batch(
        **({"name": "test", "days": 30, "count": 1, "by": None, "is_paid": True} | fields)
    )


def make_relay(rental: Rental, slot: int | None, server: Server, **fields: Any) -> Relay:
    """A relay that runs and has passed its test, with the deployment that made it."""
    now, number = timezone.now(), next(_numbers)
    values: dict[str, Any] = {"status": Relay.Status.RUNNING, "proven_at": now}
    relay = Relay.objects.create(
        rental=rental,
        slot=slot,
        server=server,
        derp_port=20000 + number,
        stun_port=20000 + number,
        certificate="-",
        certificate_key="-",
        certificate_sha256=f"{number:064x}",
        certificate_address=server.address,
        certificate_ends_at=now,
        private_key="-",
        public_key=f"{number:064x}",
        mesh_key="-",
        **(values | fields),
    )
    times = {"handshake_ms": 3.1, "packet_ms": 1.2, "stun_ms": 0.8}
    relay.last_health = RelayHealth.objects.create(relay=relay, is_ok=True, **times)
    relay.save(update_fields=["last_health"])
    Deployment.objects.create(relay=relay, status=Deployment.Status.DONE, started_at=now, finished_at=now)
    return relay


def make_customer() -> Rental:
    """A customer with a rental, three running relays, a map that was downloaded, a device, and a checked server under each relay."""
    number = next(_numbers)
    user = accounts.create_user(email=f"customer{number}@example.com", password=PASSWORD)
    code = make_batch().serials.get().code
    rental = serials.redeem_serial(code=code, user=user, by=user).rental
    for slot in (1, 2, 3):
        relay = make_relay(rental, slot, make_server())
        ServerCheck.objects.create(server=relay.server, status=ServerCheck.Status.DONE)
        gates.record_running(gate=gates.gate_of(relay.server_id), image="-", now=timezone.now())
    maps.refresh_map(rental=rental, reason=maps.RELAYS_CHANGED)
    maps.record_event(rental=rental, kind=AclEvent.Kind.DOWNLOADED, version=1, by=user, ip="198.51.100.7")
    maps.create_live_url(rental=rental, by=user)
    let_in(rental)
    return rental


def let_in(rental: Rental) -> Device:
    """One more device of theirs: approved, let in by the first relay, with the customer's own rules about it."""
    now, node_key = timezone.now(), f"{next(_numbers):064x}"
    added = devices.add_devices(
        rental=rental, devices=[NewDevice(node_key, f"nas-{node_key[-4:]}")], by=rental.user
    )
    devices.open_window(rental=rental, length=devices.WINDOWS[0], by=rental.user)
    relay = rental.relays.get(slot=1)
    asked = devices.Asked(
        relay.pk, rental.pk, node_key, "198.51.100.7", True, Admission.Reason.APPROVED, at=now
    )
    devices.record_admissions([asked])
    devices.record_seen([asked])
    return added.added[0]


def add_devices(rental: Rental, count: int = 1) -> None:
    """So many more devices of each state, seen at the first relay, and a question of each that was refused."""
    relay, now = rental.relays.order_by("pk")[0], timezone.now()
    for status in Device.Status:
        for number in [next(_numbers) for _ in range(count)]:
            ip, node_key = f"198.51.{number // 250 % 250}.{number % 250 + 1}", f"{number:064x}"
            seen = {"first_seen_at": now, "last_seen_at": now, "last_ip": ip, "last_relay": relay}
            Device.objects.create(rental=rental, node_key=node_key, status=status, **seen)
            reason = Admission.Reason.UNKNOWN
            Admission.objects.create(
                relay=relay, rental=rental, node_key=node_key, ip=ip, is_allowed=False, reason=reason, at=now
            )


def sign_in(user: User, secret: str = "") -> Client:
    """A browser in which `user`, who has `PASSWORD`, has signed in, with the second factor `secret` where there is one."""
    client = Client()
    client.post("/accounts/login/", {"login": user.email, "password": PASSWORD})
    if secret:
        code = format_hotp_value(hotp_value(secret, int(time.time()) // 30))
        client.post("/accounts/2fa/authenticate/", {"code": code})
    assert client.session["_auth_user_id"] == str(user.pk)
    return client


def enter(role: str, *, has_factor: bool) -> Client:
    """A browser in which a new person of that role has signed in."""
    user = accounts.create_user(email=f"{role}{next(_numbers)}@example.com", password=PASSWORD, role=role)
    if not has_factor:
        return sign_in(user)
    secret = generate_totp_secret()
    accounts.enrol_second_factor(user=user, secret=secret)
    return sign_in(user, secret)


def put_off(rental: Rental) -> PutOff:
    """What a sweep put off of the rental."""
    values = {
        "failure_code": "internal",
        "exception": "ValueError",
        "try_after": timezone.now() + timedelta(minutes=9),
    }
    return PutOff.objects.get_or_create(work="reminders", row=rental.pk, defaults=values)[0]


def row_of(rental: Rental, model: type[Model]) -> Model:
    """A row of that table, one of `rental` where rows belong to one."""
    if model is PutOff:
        return put_off(rental)
    own: dict[type[Model], Any] = {
        Rental: rental,
        User: rental.user,
        Relay: rental.relays.first(),
        Deployment: Deployment.objects.filter(relay__rental=rental).first(),
        MapRegion: rental.map_regions.first(),
        AclConfig: rental.acl_configs.first(),
        AclEvent: rental.acl_events.first(),
        LiveUrl: rental.live_urls.first(),
        Device: rental.devices.first(),
        DevicePolicy: rental.device_policy,
        Admission: rental.admissions.first(),
    }
    row = own.get(model) or model._default_manager.first()
    assert row is not None, f"the world has no {model.__name__}"
    return row
