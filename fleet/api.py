"""Servers by the JSON API: adding one, maintenance, removing. What stands on them is told by `containers/server_api.py`."""

from typing import Annotated, Any, Literal, cast

from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from pydantic import Field, SecretStr

from accounts.access.auth import ApiRequest
from accounts.access.models import Scope
from accounts.access.rooms import Room
from accounts.access.subjects import ask_staff
from derpmgmt.lib.api import Answer, Failed, Input, Line, NotFound, Output, Pk
from fleet import adding, services
from fleet.adding import SignIn
from fleet.models import ProviderAccount, Region, Server, SshCredential
from fleet.ssh import HostKey, RemoteError, read_host_key

server = Room("server")

# A value of `Server.Status`.
ServerState = Literal["new", "healthy", "unhealthy", "maintenance", "draining", "retired"]
_Port = Annotated[int, Field(ge=1, le=65535)]
# As the form takes: a million GB.
_Traffic = Annotated[int, Field(ge=1, le=10**15)]
# A secret that goes in and never comes out.
_Secret = Annotated[SecretStr, Field(max_length=20_000)]


class Adding(Input):
    """A server that is to be added, and how the panel signs in there: a stored credential, or a private key or password."""

    ip: Line = Field(
        max_length=45, description="The IPv4 address that customers' devices reach.", examples=["203.0.113.5"]
    )
    region: Line = Field(max_length=8, description="The code of its region.", examples=["sh"])
    name: Line = Field("", max_length=60, description="Without one it is the address.", examples=["sh-1"])
    credential: Line = Field("", max_length=60, description="The name of a stored SSH credential.")
    ssh_user: Line = Field("root", max_length=32, description="The user for `private_key` or `password`.")
    private_key: _Secret = Field(SecretStr(""), description="Ed25519, RSA or ECDSA, without a passphrase.")
    password: _Secret = Field(SecretStr(""), description="Instead of a key, or beside it.")
    ssh_host: Line = Field("", max_length=253, description="Where SSH connects to; without it the address.")
    ssh_port: _Port = Field(22, description="SSH's port.")
    bind_address: Line | None = Field(
        None, max_length=45, description="The machine's own IPv4, where the provider translates addresses."
    )
    docker_socket: Line = Field("/var/run/docker.sock", description="Docker's socket on the server.")
    capacity: int = Field(50, ge=0, le=2**31 - 1, description="Relays that it may hold.")
    tcp_port_first: _Port = Field(20000, description="First TCP port of relays.")
    tcp_port_last: _Port = Field(20999, description="Last TCP port of relays.")
    udp_port_first: _Port = Field(20000, description="First UDP port of relays.")
    udp_port_last: _Port = Field(20999, description="Last UDP port of relays.")
    is_fail_open: bool = Field(
        default=False, description="Let everybody in when neither the panel nor the gate answers."
    )
    traffic_reset_day: int = Field(
        1, ge=1, le=31, description="Day of the month on which the provider counts its traffic anew."
    )
    traffic_limit_bytes: _Traffic | None = Field(
        None, description="Traffic a month, both ways together; null for no limit."
    )
    customer_limit: int | None = Field(
        None, ge=0, le=2**31 - 1, description="Customers that it may hold; null: as it has relays for."
    )
    provider_account_id: Pk | None = Field(None, description="The account at the provider.")


class ServerCaps(Input):
    """What a server may bear; what is left out stays."""

    capacity: int = Field(0, ge=0, le=2**31 - 1, description="Relays that it may hold.")
    customer_limit: int | None = Field(
        None, ge=0, le=2**31 - 1, description="Customers that it may hold; null: as it has relays for."
    )
    traffic_limit_bytes: _Traffic | None = Field(
        None, description="Traffic a month, both ways together; null for no limit.", examples=[10**12]
    )
    traffic_reset_day: int = Field(
        1, ge=1, le=31, description="Day of the month on which the provider counts its traffic anew."
    )


class HostKeyShown(Answer):
    """The host key that a server shows now, for a person to compare with what the server's console shows."""

    server_id: Pk = Field(examples=[3])
    fingerprint: str = Field(examples=["SHA256:hQ0l0xTgrmAhtXKrZIE3BYFHqOsqzU8YQ+mUC5zQm2M"])
    host_key: str = Field(description="Kind and key.", examples=["ssh-ed25519 AAAAC3Nza…"])
    is_confirmed: bool = Field(description="Whether it is the one that was confirmed before.")


class Added(HostKeyShown):
    """A server that waits for its host key to be confirmed."""

    state: Literal["to_confirm"] = Field(description="The next step.")
    confirm: str = Field(
        description="Where to confirm the fingerprint.", examples=["/api/v1/server/3/confirm_host_key"]
    )


class ServerAnswer(Answer):
    """A server after something was done with it."""

    server_id: Pk = Field(examples=[3])
    status: ServerState


class ServerCapped(ServerAnswer):
    """What a server may bear."""

    capacity: int = Field(description="Relays that it may hold.")
    customer_limit: int | None = Field(description="Customers that it may hold; null: as it has relays for.")
    traffic_limit_bytes: int | None = Field(description="Traffic a month; null for no limit.")
    traffic_reset_day: int = Field(description="Day of the month on which its traffic is counted anew.")


class Reason(Input):
    """Why a server is put into maintenance."""

    reason: Line = Field("", description="Operators read it at the server.", examples=["new disk"])


class RegionShown(Output):
    """A place where servers stand."""

    code: str = Field(examples=["sh"])
    name: str = Field(description="In the language that was asked for.", examples=["Shanghai"])
    name_zh: str = Field(examples=["上海"])
    name_en: str = Field(examples=["Shanghai"])
    latitude: float | None = Field(description="In degrees.")
    longitude: float | None = Field(description="In degrees.")


class Regions(Answer):
    """All regions; there are few."""

    regions: list[RegionShown] = Field(description="By their codes.")


class NoSuch(Failed):
    """A region, a credential or an account at a provider that is named does not exist."""

    status, code = 422, "invalid"


class HostFailed(Failed):
    """The server cannot be reached, or shows no host key: the reason is the SSH error's."""

    status = 502


def find_server(request: ApiRequest, server_id: int) -> Server:
    """The server, for operators. Raises `NotAllowed` for others, `NotFound`."""
    ask_staff(request)
    rows = Server.objects.visible_to(request.user).select_related("region")
    found: Server | None = rows.filter(pk=server_id).first()
    if found is None:
        raise NotFound(field="server_id")
    return found


def host_failed(error: RemoteError) -> HostFailed:
    """What a server's error is for the API: its own code and words."""
    return HostFailed(error.sentence, code=error.code, detail=error.detail, **error.values)


def _read_new_key(request: ApiRequest, body: Adding) -> HostKey:
    """The key of the server that is to be added; before anything is written, since nobody connects within a transaction."""
    ask_staff(request)
    _sign_in_of(body)
    _region_of(body)
    try:
        return read_host_key(adding.ssh_target(_fields_of(body)), body.ssh_port)
    except ValidationError as error:
        raise _renamed(error) from error
    except RemoteError as error:
        raise host_failed(error) from error


def _fields_of(body: Adding) -> dict[str, Any]:
    names = {"ssh_host", "ssh_port", "docker_socket", "capacity", "tcp_port_first", "tcp_port_last",
             "udp_port_first", "udp_port_last", "is_fail_open", "traffic_reset_day", "traffic_limit_bytes", "customer_limit"}  # fmt: skip
    return {
        "address": body.ip.strip(),
        "bind_address": body.bind_address or None,
        **body.model_dump(include=names),
    }


def _region_of(body: Adding) -> Region:
    region = Region.objects.filter(code=body.region).first()
    if region is None:
        known = ", ".join(Region.objects.values_list("code", flat=True))
        text = _("There is no region %(code)s; there are: %(known)s.") % {"code": body.region, "known": known}
        raise NoSuch(text, field="region")
    return region


def _sign_in_of(body: Adding) -> SignIn | SshCredential:
    if body.credential:
        stored = SshCredential.objects.filter(name=body.credential).first()
        if stored is None:
            sentence = gettext_lazy("There is no SSH credential named %(name)s.")
            raise NoSuch(sentence, field="credential", name=body.credential)
        return stored
    try:
        key = adding.tidy_key(body.private_key.get_secret_value())
    except RemoteError as error:
        raise NoSuch(error.sentence, field="private_key") from None
    password = body.password.get_secret_value()
    if not (key or password):
        raise NoSuch(gettext_lazy("Give a private key or a password."), field="private_key")
    return SignIn(body.ssh_user or "root", key, password)


def _account_of(body: Adding) -> ProviderAccount | None:
    if body.provider_account_id is None:
        return None
    account = ProviderAccount.objects.filter(pk=body.provider_account_id).first()
    if account is None:
        raise NoSuch(gettext_lazy("There is no such account."), field="provider_account_id")
    return account


def _renamed(error: ValidationError) -> ValidationError:
    """The same with the fields' names of the API."""
    found = getattr(error, "error_dict", None)
    if found is None:
        return error
    return ValidationError({"ip" if name == "address" else name: texts for name, texts in found.items()})


@server.does("/add", Added, scope=Scope.OPERATE, creates=True, prepare=_read_new_key)
def server_add(request: ApiRequest, body: Adding) -> Added:
    """Add a server, for operators. It shows its host key; once that is confirmed the server is checked and taken into use.

    502 where the server cannot be reached or shows no key; then nothing was added.
    """
    key: HostKey = request.prepared
    try:
        made = adding.add_server(
            by=request.user,
            name=body.name or body.ip,
            region=_region_of(body),
            sign_in=_sign_in_of(body),
            provider_account=_account_of(body),
            **_fields_of(body),
        )
    except ValidationError as error:
        raise _renamed(error) from error
    return Added(
        message=_("Compare the fingerprint with what the server's console shows, and confirm it."),
        server_id=made.pk,
        fingerprint=key.fingerprint,
        host_key=key.line,
        is_confirmed=False,
        state="to_confirm",
        confirm=f"/api/v1/server/{made.pk}/confirm_host_key",
    )


@server.reads("/{server_id}/host_key", HostKeyShown)
def server_host_key(request: ApiRequest, server_id: Pk) -> HostKeyShown:
    """The host key that a server shows now, for operators. 502 where it cannot be reached."""
    found = find_server(request, server_id)
    try:
        key = read_host_key(found.ssh_address, found.ssh_port)
    except RemoteError as error:
        raise host_failed(error) from error
    return HostKeyShown(
        server_id=found.pk,
        fingerprint=key.fingerprint,
        host_key=key.line,
        is_confirmed=key.line == found.host_key,
    )


def _answer(found: Server, message: str) -> ServerAnswer:
    status: Any = Server.objects.values_list("status", flat=True).get(pk=found.pk)
    return ServerAnswer(message=message, server_id=found.pk, status=status)


@server.does("/{int:server_id}", ServerCapped, scope=Scope.OPERATE, method="PATCH")
def server_change(request: ApiRequest, server_id: Pk, body: ServerCaps) -> ServerCapped:
    """Say how much a server may bear: relays, customers, traffic a month. For operators; it counts within seconds.

    Where its traffic runs out its heaviest relays stop; they come back with more, or with the next month.
    """
    found = find_server(request, server_id)
    if found.status == Server.Status.RETIRED:
        raise services.WrongState(_("This server is removed already."))
    services.update_server(server=found, by=request.user, **body.model_dump(exclude_unset=True))
    found.refresh_from_db()
    return ServerCapped(
        message=_("The limits of %(server)s are changed; they count within seconds.") % {"server": found},
        server_id=found.pk,
        status=cast(ServerState, found.status),
        **{name: getattr(found, name) for name in ServerCaps.model_fields},
    )


@server.does("/{server_id}/maintenance", ServerAnswer, scope=Scope.OPERATE)
def server_maintenance(request: ApiRequest, server_id: Pk, body: Reason) -> ServerAnswer:
    """Place nothing new on a server, for operators; its relays keep running."""
    found = find_server(request, server_id)
    services.start_maintenance(server=found, by=request.user, reason=body.reason)
    return _answer(found, _("%(server)s is in maintenance: nothing new is placed on it.") % {"server": found})


@server.does("/{server_id}/resume", ServerAnswer, scope=Scope.OPERATE)
def server_resume(request: ApiRequest, server_id: Pk) -> ServerAnswer:
    """End a server's maintenance, for operators."""
    found = find_server(request, server_id)
    services.end_maintenance(server=found, by=request.user)
    return _answer(found, _("The maintenance of %(server)s is over: it is in use again.") % {"server": found})


@server.does("/{server_id}/retire", ServerAnswer, scope=Scope.OPERATE)
def server_retire(request: ApiRequest, server_id: Pk) -> ServerAnswer:
    """Remove a server that holds no relay, for operators; one that is removed already stays so."""
    found = find_server(request, server_id)
    if found.status == Server.Status.RETIRED:
        return _answer(found, _("This server is removed already."))
    services.retire_server(server=found, by=request.user)
    return _answer(found, _("%(server)s is removed from the fleet.") % {"server": found})


@server.reads("/regions", Regions)
def server_regions(request: ApiRequest) -> Regions:
    """Where servers may stand, for operators."""
    ask_staff(request)
    rows = Region.objects.visible_to(request.user).order_by("code")
    return Regions(regions=[RegionShown.model_validate(region) for region in rows])
