"""What the demo is filled with: people, servers, an image and serial numbers. Everything can be done again and changes nothing then."""

import json
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allauth.mfa import app_settings as mfa_settings
from allauth.mfa.models import Authenticator
from allauth.mfa.totp.internal import auth as totp
from django.conf import settings
from django.db import transaction
from django.db.models import Q

from accounts.models import User
from accounts.services import create_user
from containers.services.images import (
    NoImage,
    current_gate_image,
    current_image,
    install_gate_image,
    install_image,
)
from derpmgmt.lib import queue
from derpmgmt.lib.files import write_private
from fleet.models import Region, Server, SshCredential
from fleet.services import confirm_host_key, create_server, update_server
from serials import codes
from serials.models import SerialNumber
from serials.services import create_batch

# Code, name in Chinese and English, latitude and longitude.
REGIONS = (
    ("sh", "上海", "Shanghai", 31.23, 121.47),
    ("gz", "广州", "Guangzhou", 23.13, 113.26),
    ("bj", "北京", "Beijing", 39.90, 116.41),
)
# Name and region of each server, in the order in which hosts are taken.
SERVERS = (("shanghai-1", "sh"), ("guangzhou-1", "gz"), ("beijing-1", "bj"), ("shanghai-2", "sh"))
BATCH = "Demo"
BATCH_SIZE = 10
BATCH_DAYS = 30
SHOWN_SERIALS = 3
# A customer has three relays on three servers.
FEWEST_SERVERS = 3


@dataclass(frozen=True)
class StaffCode:
    """The second factor of one of the demo's staff: the code of now, and for how many seconds it holds."""

    email: str
    code: str
    seconds: int


def read_logins() -> dict[str, dict[str, str]]:
    """Who (customer, distributor, admin, superadmin) → e-mail, username, password and, for staff, totp_secret; random, made
    once for each demo."""
    try:
        found: dict[str, dict[str, str]] = json.loads(_logins_file().read_text())
    except FileNotFoundError:
        return {}
    return found


def staff_codes() -> list[StaffCode]:
    """What the demo's staff would read from their phones now."""
    counter, past = divmod(int(time.time()), mfa_settings.TOTP_PERIOD)
    return [
        StaffCode(
            login["email"],
            totp.format_hotp_value(totp.hotp_value(login["totp_secret"], counter)),
            mfa_settings.TOTP_PERIOD - past,
        )
        for login in read_logins().values()
        if "totp_secret" in login
    ]


@transaction.atomic
def seed_people() -> None:
    """One account for each role; staff have a second factor from the start."""
    logins = read_logins()
    for role in User.Role:
        name = "customer" if role == User.Role.USER else str(role)
        is_new = name not in logins
        if is_new:
            logins[name] = {"email": f"{name}@example.com", "username": name, "password": _password()}
            if role in {User.Role.ADMIN, User.Role.SUPERADMIN}:
                logins[name]["totp_secret"] = totp.generate_totp_secret()
        login = logins[name]
        user = User.objects.filter(email=login["email"]).first()
        if user is None:
            user = create_user(email=login["email"], username=name, password=login["password"], role=role)
        elif is_new:  # the file with the passwords was lost
            user.set_password(login["password"])
            user.save(update_fields=["password"])
            Authenticator.objects.filter(user=user).delete()
        if "totp_secret" in login and not Authenticator.objects.filter(user=user).exists():
            totp.TOTP.activate(user, login["totp_secret"])
    write_private(_logins_file(), json.dumps(logins, indent=2))


def seed_images(find_derper: Callable[[], Path | None], find_nginx: Callable[[], Path | None]) -> None:
    """The images of relays and gates, around what these give (None: a placeholder, for the sandbox)."""
    try:
        current_gate_image()
    except NoImage:
        install_gate_image(nginx=find_nginx())
    try:
        current_image()
    except NoImage:
        install_image(derper=find_derper())


def seed_servers(hosts: list[dict[str, Any]]) -> None:
    """A server for each host, registered, pinned and checked as an operator would; hosts that moved are followed."""
    for code, name_zh, name_en, latitude, longitude in REGIONS:
        Region.objects.get_or_create(
            code=code,
            defaults={"name_zh": name_zh, "name_en": name_en, "latitude": latitude, "longitude": longitude},
        )
    # Where this machine has no addresses of their own for them, each gets ports of its own; the last one first, since all began
    # with the same.
    is_shared = len({host["address"] for host in hosts}) < len(hosts)
    numbered = list(enumerate(zip(SERVERS, hosts, strict=False)))
    for number, ((name, code), host) in reversed(numbered) if is_shared else numbered:
        credential = _credential(host)
        fields: dict[str, Any] = {
            "address": host["address"],
            "ssh_port": host["ssh_port"],
            "docker_socket": host["docker_socket"],
        }
        if is_shared:
            first, last = 20000 + 1000 * number, 20999 + 1000 * number
            fields |= {"tcp_port_first": first, "tcp_port_last": last}
            fields |= {"udp_port_first": first, "udp_port_last": last}
        server = Server.objects.filter(name=name).first()
        if server is None:
            region = Region.objects.get(code=code)
            server = create_server(by=None, name=name, region=region, credential=credential, **fields)
        else:
            update_server(server=server, by=None, credential=credential, **fields)
        if server.host_key != host["host_key"]:
            confirm_host_key(server=server, line=host["host_key"], by=None)
    # While the demo was away its servers did not answer: forget that.
    Server.objects.filter(Q(contact_failures__gt=0) | Q(silent_since__isnull=False)).update(
        contact_failures=0, next_contact_at=None, silent_since=None, outage_told_at=None
    )
    for pk in Server.objects.filter(status=Server.Status.UNHEALTHY).values_list("pk", flat=True):
        queue.announce("server_to_check", pk)


def waiting_servers() -> list[Server]:
    """The servers without which a redemption would not end in three relays, as long as there are any."""
    new = list(Server.objects.filter(status=Server.Status.NEW))
    if new or Server.objects.usable().count() >= FEWEST_SERVERS:
        return new
    return list(Server.objects.exclude(status__in=[Server.Status.HEALTHY, Server.Status.RETIRED]))


def seed_serials() -> list[str]:
    """Paid, unused serial numbers; makes new ones when too few are left."""
    unused = (
        SerialNumber.objects.unused().filter(batch__name=BATCH, batch__paid_at__isnull=False).order_by("pk")
    )
    if unused.count() < SHOWN_SERIALS:
        create_batch(name=BATCH, days=BATCH_DAYS, count=BATCH_SIZE, by=None, is_paid=True)
    return [codes.group(serial.code) for serial in unused.all()[:SHOWN_SERIALS]]


def _credential(host: dict[str, Any]) -> SshCredential:
    key = Path(host["private_key_path"]).read_text()
    credential = SshCredential.objects.filter(name=BATCH).first()
    if credential is None:
        return SshCredential.objects.create(name=BATCH, username=host["user"], private_key=key)
    if (credential.username, credential.private_key) != (host["user"], key):
        credential.username, credential.private_key = host["user"], key
        credential.save()
    return credential


def _logins_file() -> Path:
    return settings.VAR_DIR / "logins.json"


def _password() -> str:
    letters = "abcdefghjkmnpqrstuvwxyz23456789"
    return "-".join("".join(secrets.choice(letters) for _place in range(4)) for _group in range(3))
