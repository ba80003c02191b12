"""What the demo is filled with: people, servers, an image and serial numbers. Everything can be done again and changes nothing then."""

import contextlib
import itertools
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
from django.core.exceptions import ValidationError
from django.db import IntegrityError
from django.db.models import Q
from django.utils.translation import gettext as _

from accounts.models import User
from accounts.services import AccountExists, create_user
from containers.models import ServerCheck
from containers.services.checks import request_check
from containers.services.images import (
    NoImage,
    current_gate_image,
    current_image,
    install_gate_image,
    install_image,
)
from derpmgmt.lib.files import write_private
from fleet.models import CONTACT, Region, Server, SshCredential
from fleet.services import confirm_host_key, create_server, update_server
from serials.numbers import codes
from serials.numbers.models import SerialNumber
from serials.numbers.services import create_batch

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
    return {
        name: {key: str(value) for key, value in login.items() if key not in _OURS}
        for name, login in _read_file().items()
    }


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


def seed_people() -> None:
    """One account for each role, with which one can sign in whatever was done to it; staff have a second factor from the start.

    Whoever was banned, closed or given another role is followed by a new account.
    """
    logins = _read_file()
    for role in User.Role:
        name = "customer" if role == User.Role.USER else str(role)
        login = logins.setdefault(name, {"password": _password()})
        if role in {User.Role.ADMIN, User.Role.SUPERADMIN}:
            login.setdefault("totp_secret", totp.generate_totp_secret())
        people = User.objects.filter(role=role, is_active=True)
        user = people.filter(pk=login.get("id", 0)).first() or people.filter(email=_address(name)).first()
        if user is None:
            user = _make_person(name, role, login["password"])
        elif user.password != login.get("hash") and not user.check_password(login["password"]):
            user.set_password(login["password"])
            user.save(update_fields=["password"])
            # The second factor is of the same age: when the file with both was lost, nobody knows it.
            Authenticator.objects.filter(user=user).delete()
        if "totp_secret" in login and not Authenticator.objects.filter(user=user).exists():
            totp.TOTP.activate(user, login["totp_secret"])
        login |= {"id": user.pk, "hash": user.password, "email": user.email, "username": user.username}
        write_private(_logins_file(), json.dumps(logins, indent=2))


def _make_person(name: str, role: str, password: str) -> User:
    for number in itertools.count(1):
        # Whoever had the address before may still be there, without the role.
        email = _address(name if number == 1 else f"{name}{number}")
        username = "" if User.objects.filter(username=name).exists() else name
        with contextlib.suppress(AccountExists):
            return create_user(email=email, username=username, password=password, role=role)
    raise AssertionError


def _address(name: str) -> str:
    return f"{name}@example.com"


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


def seed_servers(hosts: list[dict[str, Any]], say: Callable[[str], None]) -> list[int]:
    """A server for each host, registered, pinned and checked as an operator would; hosts that moved are followed.

    Returns those that are being checked now. One that cannot be had, whatever was done to it, is told by `say` and left out.
    """
    for code, name_zh, name_en, latitude, longitude in REGIONS:
        Region.objects.get_or_create(
            code=code,
            defaults={"name_zh": name_zh, "name_en": name_en, "latitude": latitude, "longitude": longitude},
        )
    checked = []
    for (name, code), host in zip(SERVERS, hosts, strict=False):
        try:
            server = _register(name, code, host)
        except (ValidationError, IntegrityError) as error:
            reason = "; ".join(error.messages) if isinstance(error, ValidationError) else str(error)
            say(_("The demo's server %(name)s is left out: %(reason)s") % {"name": name, "reason": reason})
            continue
        if server.status in {Server.Status.NEW, Server.Status.UNHEALTHY}:
            request_check(server_pk=server.pk)
            checked.append(server.pk)
    return checked


def _register(name: str, code: str, host: dict[str, Any]) -> Server:
    """The row of one of the demo's hosts, found by its host key under whatever name it has now, else by its name.

    One that was retired stays so, and its host comes in anew.
    """
    credential = _credential(host)
    fields = {
        "address": host["address"],
        "ssh_port": host["ssh_port"],
        "docker_socket": host["docker_socket"],
    }
    rows = Server.objects.exclude(status=Server.Status.RETIRED)
    server = rows.filter(host_key=host["host_key"]).first() or rows.filter(name=name).first()
    if server is None:
        region = Region.objects.get(code=code)
        server = create_server(by=None, name=name, region=region, credential=credential, **fields)
    else:
        update_server(server=server, by=None, credential=credential, ssh_host="", **fields)
    if server.host_key != host["host_key"]:
        confirm_host_key(server=server, line=host["host_key"], by=None)
    # While the demo was away its servers did not answer: forget that.
    Server.objects.filter(pk=server.pk).update(**CONTACT.cleared)
    server.refresh_from_db()
    return server


def waiting_servers(servers: list[int]) -> list[Server]:
    """Those of `servers` whose check has not ended, or not begun."""
    has_open = Q(pk__in=ServerCheck.objects.open().values("server"))
    return list(Server.objects.filter(has_open | Q(is_check_due=True), id__in=servers))


def missing_servers() -> list[Server]:
    """Where a redemption would not end in three relays for want of servers: those that are not usable."""
    if Server.objects.usable().count() >= FEWEST_SERVERS:
        return []
    return list(Server.objects.exclude(status=Server.Status.HEALTHY))


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


# What the file knows beside what people type: by which account and password hash a change is seen.
_OURS = {"id", "hash"}


def _read_file() -> dict[str, dict[str, Any]]:
    """What the file of the logins holds; nothing where it is lost or broken."""
    try:
        found = json.loads(_logins_file().read_text())
        return {name: dict(login) for name, login in found.items() if login["password"]}
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        return {}


def _logins_file() -> Path:
    return settings.VAR_DIR / "logins.json"


def _password() -> str:
    letters = "abcdefghjkmnpqrstuvwxyz23456789"
    return "-".join("".join(secrets.choice(letters) for _place in range(4)) for _group in range(3))
