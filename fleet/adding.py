"""Adding a server: how SSH gets there and signs in, its host key as it shows it now, and its row."""

from dataclasses import dataclass, field
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils.translation import gettext_lazy as _

from accounts.models import User
from derpmgmt.lib.refusals import Refusal
from fleet.models import Region, Server, SshCredential
from fleet.services import confirm_host_key, create_server, save_credential
from fleet.ssh import HostKey


class HostKeyDiffers(Refusal):
    """The server shows another host key than the one that somebody expects."""

    code = "host_key_differs"
    sentence = _("The server shows the host key %(seen)s, not %(expected)s. Nothing was changed.")


@dataclass(frozen=True)
class SignIn:
    """How to sign in at a server, as somebody gives it: a private key, a password, or both."""

    username: str = "root"
    private_key: str = field(default="", repr=False)
    password: str = field(default="", repr=False)


def ssh_target(fields: dict[str, Any]) -> str:
    """The host that SSH would connect to with these fields of a server. Raises `ValidationError` for wrong addresses."""
    server = Server(**{name: fields.get(name) or "" for name in ("address", "ssh_host")})
    server.bind_address = fields.get("bind_address")
    given = {"address", "bind_address", "ssh_host"}
    server.clean_fields(exclude={field.name for field in Server._meta.fields} - given)
    if problems := server.read_addresses():
        raise ValidationError(problems)
    return server.ssh_address


def tidy_key(text: str) -> str:
    """A private key as it is stored; "" stays "". Raises `RemoteError` (bad_key) where it is none, without repeating any of it."""
    text = text.replace("\r\n", "\n").strip()
    if not text:
        return ""
    from fleet.ssh import load_private_key

    load_private_key(text + "\n")
    return text + "\n"


def save_sign_in(
    *, name: str, sign_in: SignIn, by: User | None, server: Server | None = None
) -> SshCredential:
    """Store how to sign in under the server's name; where that is another server's, beside it."""
    base, number = name[:50], 1
    while Server.objects.filter(credential__name=name).exclude(pk=server.pk if server else None).exists():
        number += 1
        name = f"{base} ({number})"
    return save_credential(
        name=name,
        username=sign_in.username,
        private_key=sign_in.private_key,
        password=sign_in.password,
        by=by,
    )


@transaction.atomic
def add_server(
    *,
    by: User | None,
    name: str,
    region: Region,
    address: str,
    sign_in: SignIn | SshCredential,
    **fields: Any,
) -> Server:
    """`create_server`, together with how to sign in: a server that is refused leaves no credential behind. Raises `ValidationError`."""
    if isinstance(sign_in, SignIn):
        sign_in = save_sign_in(name=name, sign_in=sign_in, by=by)
    return create_server(by=by, name=name, region=region, address=address, credential=sign_in, **fields)


def confirm_shown_key(*, server: Server, fingerprint: str, by: User | None) -> HostKey:
    """Pin the key that the server shows now, if it is the one with this fingerprint, and have the server checked.

    Connects, so not within a transaction. Raises `HostKeyDiffers`, `RemoteError`.
    """
    from fleet.ssh import read_host_key

    key = read_host_key(server.ssh_address, server.ssh_port)
    expect_key(key, fingerprint)
    confirm_host_key(server=server, line=key.line, by=by)
    return key


def expect_key(key: HostKey, fingerprint: str) -> None:
    """Raises `HostKeyDiffers` where this is not the key's fingerprint."""
    if fingerprint.strip() != key.fingerprint:
        raise HostKeyDiffers(seen=key.fingerprint, expected=fingerprint.strip())
