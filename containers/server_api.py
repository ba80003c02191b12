"""Servers by the JSON API as far as relays stand on them: lists, states, checks. Adding and removing: `fleet/api.py`."""

import time
from datetime import date
from functools import partial
from typing import Annotated, Any, Literal, cast

from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from ninja import Query
from pydantic import Field

from accounts.access.auth import ApiRequest
from accounts.access.models import Scope
from accounts.access.rooms import Room, accepted
from accounts.access.subjects import ask_staff
from accounts.models import User
from containers.figures import relays_by_server
from containers.models import Gate, Relay, ServerCheck
from containers.services import checks, gates
from containers.services.usage import read_server
from derpmgmt.lib.api import Answer, Input, Line, Listed, Moment, Output, PageQuery, Pk, Wait, wait_for
from derpmgmt.lib.api.paging import begin_of, cut, cut_page
from derpmgmt.lib.prepared import Prepared
from derpmgmt.lib.problems import explain, translate
from derpmgmt.lib.refusals import Refusal
from fleet.adding import confirm_shown_key
from fleet.api import ServerState, find_server, host_failed
from fleet.models import Server, unhealthy_since
from fleet.services import WrongState
from fleet.ssh import HostKey, RemoteError

server = Room("server")

# The values of a `JobRecord`'s state, and of one that never was.
CheckState = Literal["none", "queued", "running", "done", "failed", "errored", "lost"]


class KeyUnconfirmed(Refusal):
    """A server whose host key nobody has confirmed is not reached."""

    code = "host_key_unconfirmed"
    sentence = gettext_lazy("The host key of this server is not confirmed yet.")


class FindingShown(Output):
    """What one step of a check found."""

    step: str = Field(examples=["docker"])
    is_ok: bool = Field(description="Whether it is as it should be.")
    text: str = Field(description="In the language that was asked for.")
    remedy: str = Field(description="What to do, likewise; may be empty.")
    rules: list[str] = Field(description="Lines for the provider's security group.")
    detail: str = Field(description="The server's own words; may be empty.")


class HealthCheck(Answer):
    """A server's newest check. `done` is one that found all well, `failed` one that found something wrong, `errored` a mistake of the
    panel's, `lost` one whose worker died, which is made anew."""

    server_id: Pk = Field(examples=[3])
    status: CheckState
    is_over: bool = Field(description="Whether there is nothing to wait for.")
    check_id: Pk | None = Field(description="Null where there was none.")
    step: str = Field(description="The step under way, or the last one.", examples=["image"])
    reason: str = Field(description="Why it did not end well; else empty.")
    findings: list[FindingShown] = Field(description="What was found so far.")
    created_at: Moment | None = Field(description="When it was asked for.")
    finished_at: Moment | None = Field(description="When it ended.")
    follow: str = Field(
        description="Where to ask how far it is; with `wait`, once it is done.",
        examples=["/api/v1/server/health_check?server_id=3&after=8"],
    )


class ServerRow(Output):
    """A server in the list."""

    server_id: Pk = Field(examples=[3])
    name: str = Field(examples=["sh-1"])
    region: str = Field(description="Its code.", examples=["sh"])
    ip: str = Field(examples=["203.0.113.5"])
    status: ServerState
    reason: str = Field(description="Why it is in its state; may be empty.")
    silent_since: Moment | None = Field(description="Since when it does not answer; null while it does.")
    unhealthy_since: Moment | None = Field(
        description="Since when it does not answer or does not do its work; null unless it is `unhealthy`."
    )
    relays: int = Field(description="Relays that stand there.", examples=[12])
    capacity: int = Field(description="Relays that it may hold.", examples=[50])
    load_per_core: float | None = Field(description="The kernel's average over a minute.")
    disk_free_bytes: int | None = Field(description="Where Docker keeps its data.")
    last_contact_at: Moment | None = Field(description="When it answered last.")
    last_visit_at: Moment | None = Field(description="When it was visited last.")


class Servers(Listed):
    """Servers."""

    servers: list[ServerRow] = Field(description="The page's rows.")


class ServerQuery(PageQuery):
    """Which servers."""

    region: Annotated[Line, Field(max_length=8)] = Field(
        "", description="Those in the region with this code."
    )
    status: ServerState | None = Field(
        None, description="Those in this state; without it all but the removed ones."
    )
    q: str = Field("", max_length=200, description="Part of a name or an address.")


class GateShown(Output):
    """The container that a server's relays ask for admission."""

    status: Literal["planned", "running", "failed"]
    is_needed: bool = Field(description="Whether relays that need it stand or are to stand there.")
    failure: str = Field(description="Why it could not be made; may be empty.")
    is_list_late: bool = Field(description="Whether a change of its list of devices has not reached it yet.")


class CheckShown(Output):
    """A check in brief."""

    check_id: Pk = Field(examples=[9])
    status: CheckState
    reason: str = Field(description="Why it did not end well; else empty.")
    finished_at: Moment | None = Field(description="When it ended.")


class ServerShown(ServerRow):
    """A server with all that is known of it."""

    region_name: str = Field(description="In the language that was asked for.", examples=["Shanghai"])
    ssh_host: str = Field(description="Where SSH connects to.", examples=["203.0.113.5"])
    ssh_port: int = Field(examples=[22])
    fingerprint: str = Field(description="Of the confirmed host key; empty while there is none.")
    bind_address: str | None = Field(description="The machine's own address, where it is another.")
    tcp_ports: list[int] = Field(description="First and last TCP port of relays.", examples=[[20000, 20999]])
    udp_ports: list[int] = Field(description="First and last UDP port of relays.", examples=[[20000, 20999]])
    is_fail_open: bool = Field(description="Whether everybody is let in when nobody can be asked.")
    docker_version: str = Field(examples=["29.1.0"])
    memory_bytes: int | None = Field(description="Of the machine.")
    customer_limit: int | None = Field(description="Customers that it may hold; null: as it has relays for.")
    traffic_limit_bytes: int | None = Field(
        description="Traffic a month, both ways together; null for no limit."
    )
    traffic_reset_day: int = Field(description="Day of the month on which its traffic is counted anew.")
    upload_traffic: int = Field(description="What devices sent to its relays in its month, in bytes.")
    download_traffic: int = Field(description="What its relays sent to devices in its month, in bytes.")
    traffic_runs_out_on: date | None = Field(
        description="The day on which its traffic will be used up, before it is counted anew; null where it lasts."
    )
    traffic_over_at: Moment | None = Field(
        description="Since when it is used up, so that relays had to stop; null while it is not."
    )
    is_check_due: bool = Field(description="Whether a check is owed and has not begun.")
    gate: GateShown | None = Field(description="Null where there is none yet.")
    check: CheckShown | None = Field(description="The newest check; null where there was none.")


class ServerStatus(Answer):
    """A server."""

    server_status: ServerShown = Field(description="All that is known of it.")


class Confirming(Input):
    """The fingerprint that a person compared."""

    fingerprint: Line = Field(examples=["SHA256:hQ0l0xTgrmAhtXKrZIE3BYFHqOsqzU8YQ+mUC5zQm2M"])


_COLUMNS = ("id", "name", "region__code", "address", "status", "status_code", "status_values", "status_reason", "silent_since",
            "fault_since", "capacity", "load_ratio", "disk_free_bytes", "last_contact_at", "last_visit_at")  # fmt: skip


@server.reads("/list", Servers)
def server_list(request: ApiRequest, query: Annotated[ServerQuery, Query()]) -> Servers:
    """The servers, for operators, the newest first."""
    ask_staff(request)
    describe = partial(_describe_row, _count_relays())
    if query.is_filtered:
        rows = Server.objects.visible_to(request.user)
        rows = rows.filter(status=query.status) if query.status else _in_use(rows)
        if query.region:
            rows = rows.filter(region__code=query.region)
        if query.q:
            found = ("name__icontains", "address__icontains", "ssh_host__icontains")
            rows = rows.filter(Q(*[(lookup, query.q) for lookup in found], _connector=Q.OR))
        servers, next_cursor = cut_page(rows.values(*_COLUMNS), query, describe)
    else:
        servers, next_cursor = cut(_ALL.read(query.page_size + 1, below=begin_of(query)), query, describe)
    return Servers(servers=servers, next_cursor=next_cursor)


def _in_use(servers: Any) -> Any:
    return servers.exclude(status=Server.Status.RETIRED)


# What staff's programs ask for all the time.
_ALL = Prepared(
    lambda number, below: (
        _in_use(Server.objects.visible_to(User(is_staff=True)))
        .filter(pk__lt=below)
        .order_by("-pk")
        .values(*_COLUMNS)[:number]
    )
)


# How many relays stand on each server, and when that was read (time.monotonic): a second old at most, as tokens are.
_counted: tuple[float, dict[int, int]] = (float("-inf"), {})
_COUNTED_SECONDS = 1.0


def _count_relays() -> dict[int, int]:
    """Servers without relays are left out."""
    global _counted
    now = time.monotonic()
    if not 0 <= now - _counted[0] < _COUNTED_SECONDS:
        _counted = (now, dict(relays_by_server()))
    return _counted[1]


def _describe_row(relays: dict[int, int], row: dict[str, Any]) -> dict[str, Any]:
    """The fields of a `ServerRow`, which are judged all together: one by one takes three times as long."""
    code, words = row["status_code"], row["status_reason"]
    return {
        "server_id": row["id"],
        "name": row["name"],
        "region": row["region__code"],
        "ip": row["address"],
        "status": row["status"],
        # As `Server.reason`.
        "reason": explain(code, row["status_values"], words) if code else translate(words, {}),
        "silent_since": row["silent_since"],
        "unhealthy_since": unhealthy_since(row["status"], row["silent_since"], row["fault_since"]),
        "relays": relays.get(row["id"], 0),
        "capacity": row["capacity"],
        "load_per_core": row["load_ratio"],
        "disk_free_bytes": row["disk_free_bytes"],
        "last_contact_at": row["last_contact_at"],
        "last_visit_at": row["last_visit_at"],
    }


@server.reads("/status/{server_id}", ServerStatus)
def server_status(request: ApiRequest, server_id: Pk) -> ServerStatus:
    """One server with its gate and its newest check, for operators."""
    found = find_server(request, server_id)
    rows = Gate.objects.visible_to(request.user).select_related("server").defer("secret").filter(server=found)
    gate = gates.with_relays(rows).first()
    check = (
        ServerCheck.objects.visible_to(request.user).filter(server=found).defer("log").order_by("-pk").first()
    )
    relays = Relay.objects.live().filter(server=found).count()
    flow = read_server(server=found, now=timezone.now())
    row = _describe_row({found.pk: relays}, Server.objects.filter(pk=found.pk).values(*_COLUMNS).get())
    return ServerStatus(
        message=found.reason,
        server_status=ServerShown(
            **row,
            region_name=found.region.name,
            ssh_host=found.ssh_address,
            ssh_port=found.ssh_port,
            fingerprint=HostKey.from_line(found.host_key).fingerprint if found.host_key else "",
            bind_address=found.bind_address,
            tcp_ports=[found.tcp_port_first, found.tcp_port_last],
            udp_ports=[found.udp_port_first, found.udp_port_last],
            is_fail_open=found.is_fail_open,
            docker_version=found.docker_version,
            memory_bytes=found.memory_bytes,
            customer_limit=found.customer_limit,
            traffic_limit_bytes=found.traffic_limit_bytes,
            traffic_reset_day=found.traffic_reset_day,
            upload_traffic=flow.up_bytes,
            download_traffic=flow.down_bytes,
            traffic_runs_out_on=found.traffic_runs_out_on,
            traffic_over_at=found.traffic_over_at,
            is_check_due=found.is_check_due,
            gate=_describe_gate(gate) if gate else None,
            check=_describe_check(check) if check else None,
        ),
    )


def _describe_gate(gate: Any) -> GateShown:
    return GateShown(
        status=gate.status,
        is_needed=gate.has_relays,
        failure=str(gates.failure_text(gate)),
        is_list_late=gate.is_list_late,
    )


def _describe_check(check: ServerCheck) -> CheckShown:
    return CheckShown(
        check_id=check.pk,
        status=cast(CheckState, check.status),
        reason=check.reason,
        finished_at=check.finished_at,
    )


@server.reads("/health_check", HealthCheck, later=True)
def server_health_check(
    request: ApiRequest,
    server_id: Annotated[Pk, Query(description="Which server.")],
    after: Annotated[
        int, Query(ge=0, le=2**63 - 1, description="Only a check that came after this one.")
    ] = 0,
    wait: Wait = 0,
) -> HealthCheck:
    """A server's newest check, for operators. 202 while it goes on, or while the one that is waited for (`after`) has not begun."""
    found = find_server(request, server_id)
    return _answer(found, after, wait, "")


@server.does("/{server_id}/confirm_host_key", HealthCheck, scope=Scope.OPERATE, later=True)
def server_confirm_host_key(
    request: ApiRequest, server_id: Pk, body: Confirming, wait: Wait = 0
) -> HealthCheck:
    """Confirm the host key that a server shows now, and have it checked, for operators. 202 until the check is over.

    409 (`host_key_differs`) where it shows another one, 502 where it cannot be reached; then nothing was changed.
    """
    found = find_server(request, server_id)
    _ask_in_use(found)
    after = _newest(found)
    try:
        confirm_shown_key(server=found, fingerprint=body.fingerprint, by=request.user)
    except RemoteError as error:
        raise host_failed(error) from error
    return _answer(
        found,
        after,
        wait,
        _("The host key of %(server)s is confirmed; the server is being checked.") % {"server": found},
    )


@server.does("/{server_id}/check", HealthCheck, scope=Scope.OPERATE, later=True)
def server_check(request: ApiRequest, server_id: Pk, wait: Wait = 0) -> HealthCheck:
    """Have a server checked again, for operators. 202 until the check is over; while one goes on it is that one."""
    found = find_server(request, server_id)
    _ask_in_use(found)
    if not found.host_key:
        raise KeyUnconfirmed
    check = checks.request_check(server_pk=found.pk, by=request.user)
    return _answer(found, check.pk - 1, wait, _("%(server)s is being checked.") % {"server": found})


def _ask_in_use(found: Server) -> None:
    if found.status == Server.Status.RETIRED:
        raise WrongState(_("This server is removed already."))


def _newest(found: Server) -> int:
    """The number of the server's newest check; 0 where there was none."""
    rows = ServerCheck.objects.filter(server=found).order_by("-pk")
    return rows.values_list("pk", flat=True).first() or 0


def _answer(found: Server, after: int, wait: int, message: str) -> HealthCheck:
    rows = ServerCheck.objects.filter(server=found, pk__gt=after).defer("log").order_by("-pk")

    def find() -> ServerCheck | None:
        check = rows.first()
        # A lost one is made anew.
        is_over = check is not None and not check.is_open and check.status != ServerCheck.Status.LOST
        return check if is_over else None

    over = wait_for(find, wait)
    check: ServerCheck | None = over or rows.first()
    is_over = over is not None or (check is None and not after and not found.is_check_due)
    answer = HealthCheck(
        message=message or (check.reason if check else "") or _message(check),
        server_id=found.pk,
        status=cast(CheckState, check.status) if check else "none",
        is_over=is_over,
        check_id=check.pk if check else None,
        step=check.step if check else "",
        reason=check.reason if check else "",
        findings=[FindingShown.model_validate(finding) for finding in checks.read_findings(check)]
        if check
        else [],
        created_at=check.created_at if check else None,
        finished_at=check.finished_at if check else None,
        follow=f"/api/v1/server/health_check?server_id={found.pk}&after={after}",
    )
    return answer if is_over else accepted(answer)  # type: ignore[return-value]


def _message(check: ServerCheck | None) -> str:
    if check is None:
        return _("It has not been checked yet.")
    return _("It is being checked.") if check.is_open else _("The server passed its check.")
