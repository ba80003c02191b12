"""Relays by the JSON API. The requirement calls a relay's container “container”, and so do the paths; `container_id` is the relay's key."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from django.db.models import Q, QuerySet
from django.utils import timezone
from django.utils.translation import get_language
from django.utils.translation import gettext as _
from ninja import Query
from pydantic import Field

from accounts.access.auth import ApiRequest
from accounts.access.models import Scope
from accounts.access.rooms import Room, accepted
from accounts.access.subjects import ask_scope, ask_staff
from accounts.models import User
from containers.derp.probe import CAUSES
from containers.models import Deployment, Relay, RelayHealth
from containers.services.moving import allocate_relay, release_relay
from containers.services.relay_requests import PROBE_RATE, ask_probe
from containers.steps import name_steps
from derpmgmt.lib.address import client_ip
from derpmgmt.lib.api import (
    Answer,
    Input,
    Line,
    Listed,
    Moment,
    NotFound,
    Output,
    PageQuery,
    Pk,
    Wait,
    begin_of,
    cut,
    cut_page,
    wait_for,
)
from derpmgmt.lib.limits import consume
from derpmgmt.lib.prepared import Prepared
from derpmgmt.lib.problems import explain
from fleet.models import Server
from serials.rentals.models import Rental

container = Room("container")

# Tests that an answer holds at most, the newest first.
MOST_PROOFS = 200
_STATUS_PATH = "/api/v1/container/status/{}"
_DAY = timedelta(days=1)


class RelayProof(Output):
    """One end-to-end test of a relay: a packet carried through it, and STUN's answer. Times in milliseconds, null where it did not get so far."""

    at: Moment = Field(description="When it was made.")
    is_ok: bool = Field(description="Whether all of it went well.")
    step: str = Field(description="The step that failed; empty for none.", examples=["", "tls", "stun"])
    cause: str = Field(
        description="What the likely cause is called; empty for none.", examples=["stun_silent"]
    )
    problem: str = Field(description="The same as a sentence.")
    tcp_ms: float | None = Field(None, description="Until the TCP connection stood.")
    tls_ms: float | None = Field(None, description="Until it was encrypted.")
    handshake_ms: float | None = Field(None, description="Until DERP's handshake was done.")
    packet_ms: float | None = Field(None, description="How long a packet took through the relay.")
    stun_ms: float | None = Field(None, description="Until STUN answered.")
    tcp_jitter_ms: float | None = Field(
        None, description="How much round trips on one connection differ from one to the next, on average."
    )
    stun_jitter_ms: float | None = Field(None, description="The same of STUN's packets.")
    stun_loss: float | None = Field(
        None, description="The share of STUN's packets that got no answer.", examples=[0.125]
    )


class Container(Output):
    """A relay: one DERP server of one customer."""

    container_id: Pk = Field(description="The relay's id.", examples=[12])
    user_id: Pk | None = Field(description="Whose it is; null for one that only proves a server.")
    slot: int | None = Field(
        description="Which of the customer's three it is; null for one that comes or goes.", examples=[1]
    )
    status: Relay.Status = Field(description="What was last done with it.")
    is_carrying: bool = Field(
        description="Whether it carries packets, as far as anybody knows: it runs, its server answers, its last test passed."
    )
    problem: str = Field(description="What is wrong, as a sentence; empty for nothing.")
    server_id: Pk = Field(description="The server on which it stands.")
    server: str | None = Field(description="The server's name, for operators; null for others.")
    region: str = Field(examples=["Shanghai"])
    address: str = Field(description="IPv4.", examples=["203.0.113.7"])
    derp_port: int = Field(description="TCP.", examples=[20000])
    stun_port: int = Field(description="UDP.", examples=[20000])
    certificate_sha256: str = Field(
        description="The certificate's pin: the map's CertName is sha256-raw: and this."
    )
    certificate_ends_at: Moment = Field(description="Another relay takes its place some weeks before.")
    created_at: Moment = Field(examples=["2026-12-31T08:00:00Z"])
    proven_at: Moment | None = Field(description="When it first carried a packet.")
    retiring_since: Moment | None = Field(
        description="Since when another has its place, beside which it stays for a while."
    )
    replaces: Pk | None = Field(description="The relay whose place it takes over once it is proven.")
    last_proof: RelayProof | None = Field(None, description="Its last test; null before the first.")


class ContainerQuery(PageQuery):
    """Which relays."""

    user_id: Pk | None = Field(None, description="Those of one customer.")
    server_id: Pk | None = Field(None, description="Those on one server.")
    status: Relay.Status | None = Field(None, description="Only these; without it all but the released ones.")
    q: Line = Field(
        "",
        description="Words in the customer's address or name, or the server's name or address; or a DERP port.",
    )


class Containers(Listed):
    """Relays, the newest first."""

    containers: list[Container] = Field(description="The page's relays.")


class DeploymentStep(Output):
    """One step of making a container; `seconds` is what it took or has taken so far."""

    name: str = Field(examples=["connect"])
    label: str = Field(examples=["Connect to the server"])
    seconds: float = Field(description="What it took, or has taken so far.")
    is_over: bool = Field(description="Whether it is done.")


class DeploymentState(Output):
    """The last try to make the relay's container as it should be."""

    deployment_id: Pk = Field(examples=[31])
    status: Deployment.Status
    reason: str = Field(description="Why it did not end well; empty where it did.")
    created_at: Moment = Field(examples=["2026-12-31T08:00:00Z"])
    finished_at: Moment | None = Field(description="Null while it is under way.")
    steps: list[DeploymentStep] = Field(description="In their order.")


class ContainerState(Answer):
    """A relay, how it is being made, and its tests of the last day."""

    container: Container
    deployment: DeploymentState | None = Field(
        description="The last try to make its container; null before the first."
    )
    proofs: list[RelayProof] = Field(
        description=f"Of the last 24 hours, the newest first, {MOST_PROOFS} at most."
    )


class ContainerProbed(Answer):
    """What a test found."""

    container_id: Pk = Field(description="The relay's id.")
    follow: str = Field(description="Where the relay and its tests are read.")
    proof: RelayProof | None = Field(description="The test that was asked for; null while it is not done.")


_MEASURED = (
    "tcp_ms", "tls_ms", "handshake_ms", "packet_ms", "stun_ms", "tcp_jitter_ms", "stun_jitter_ms", "stun_loss",
)  # fmt: skip
_FIELDS = (
    "id", "rental__user_id", "slot", "status", "server_id", "server__name", "server__region__name_zh", "server__region__name_en",
    "server__address", "server__silent_since", "derp_port", "stun_port", "certificate_sha256", "certificate_ends_at", "created_at",
    "proven_at", "retiring_since", "replaces_id", "failure_code", "failing_since",
    *(f"last_health__{name}" for name in ("at", "is_ok", "step", "cause", *_MEASURED)),
)  # fmt: skip


def _proof(health: RelayHealth) -> RelayProof:
    return RelayProof(
        at=health.at,
        is_ok=health.is_ok,
        step=health.step,
        cause=health.cause,
        problem=str(CAUSES.get(health.cause, "")),
        **{name: getattr(health, name) for name in _MEASURED},
    )


def _problem(row: Mapping[str, Any]) -> str:
    """What is wrong with a relay, the most telling first."""
    if row["status"] in {Relay.Status.REMOVING, Relay.Status.RELEASED}:
        return ""
    if row["server__silent_since"]:
        return _("the server does not answer")
    if row["failure_code"] and row["status"] != Relay.Status.RUNNING:
        return explain(row["failure_code"])
    if row["last_health__is_ok"] is False:
        return str(CAUSES.get(row["last_health__cause"], ""))
    return ""


def _container(row: Mapping[str, Any], *, is_staff: bool, is_chinese: bool) -> dict[str, Any]:
    """A `Container` of one row of `_FIELDS`; all are judged together, which one by one takes three times as long."""
    chinese, english = row["server__region__name_zh"], row["server__region__name_en"]
    proof = None
    if row["last_health__at"]:
        values = {name: row[f"last_health__{name}"] for name in ("at", "is_ok", "step", "cause")}
        times = {name: row[f"last_health__{name}"] for name in _MEASURED}
        proof = {**values, **times, "problem": str(CAUSES.get(values["cause"], ""))}
    return {
        "container_id": row["id"],
        "user_id": row["rental__user_id"],
        "slot": row["slot"],
        "status": row["status"],
        "is_carrying": row["status"] == Relay.Status.RUNNING
        and row["failing_since"] is None
        and row["server__silent_since"] is None,
        "problem": _problem(row),
        "server_id": row["server_id"],
        "server": row["server__name"] if is_staff else None,
        "region": chinese if is_chinese else english,
        "address": row["server__address"],
        "derp_port": row["derp_port"],
        "stun_port": row["stun_port"],
        "certificate_sha256": row["certificate_sha256"],
        "certificate_ends_at": row["certificate_ends_at"],
        "created_at": row["created_at"],
        "proven_at": row["proven_at"],
        "retiring_since": row["retiring_since"],
        "replaces": row["replaces_id"],
        "last_proof": proof,
    }


def _filter(rows: QuerySet[Relay], query: ContainerQuery) -> QuerySet[Relay]:
    rows = rows.filter(status=query.status) if query.status else rows.exclude(status=Relay.Status.RELEASED)
    if query.user_id:
        rows = rows.filter(rental__user=query.user_id)
    if query.server_id:
        rows = rows.filter(server=query.server_id)
    if words := query.q.strip():
        found = Q(rental__user__email__icontains=words) | Q(rental__user__username__icontains=words)
        found |= Q(server__name__icontains=words) | Q(server__address__icontains=words)
        if words.isascii() and words.isdecimal() and len(words) <= 5:
            found |= Q(derp_port=int(words))
        rows = rows.filter(found)
    return rows


# What customers' programs ask for all the time.
_OWN = Prepared(
    lambda number, asker, below: (
        _filter(Relay.objects.visible_to(User(pk=asker)), ContainerQuery.model_validate({}))
        .filter(pk__lt=below)
        .order_by("-pk")
        .values(*_FIELDS)[:number]
    )
)


@container.reads("/list", Containers)
def container_list(request: ApiRequest, query: Query[ContainerQuery]) -> Containers:
    """One's own relays; operators see all customers'."""
    is_chinese = (get_language() or "").startswith("zh")
    describe = partial(_container, is_staff=request.user.is_staff, is_chinese=is_chinese)
    if request.user.is_staff or query.is_filtered:
        rows = _filter(Relay.objects.visible_to(request.user), query).values(*_FIELDS)
        found, cursor = cut_page(rows, query, describe)
    else:
        own = _OWN.read(query.page_size + 1, asker=request.user.pk, below=begin_of(query))
        found, cursor = cut(own, query, describe)
    return Containers(containers=found, next_cursor=cursor)


def _find(request: ApiRequest, container_id: int) -> Relay:
    """A relay that whoever asks may see, without what is secret of it. Raises `NotFound`."""
    rows = Relay.objects.visible_to(request.user).select_related("server", "rental").defer(*Relay.SECRETS)
    relay = rows.filter(pk=container_id).first()
    if relay is None:
        raise NotFound
    return relay


@container.reads("/status/{container_id}", ContainerState)
def container_status(request: ApiRequest, container_id: Pk, wait: Wait = 0) -> ContainerState:
    """A relay, the steps of making it, and its tests of the last day; `wait` until nothing is under way at it."""

    def read() -> dict[str, Any] | None:
        return Relay.objects.visible_to(request.user).filter(pk=container_id).values(*_FIELDS).first()

    def settled() -> dict[str, Any] | None:
        row = read()
        if row is None:
            raise NotFound
        return row if row["status"] not in {Relay.Status.PLANNED, Relay.Status.REMOVING} else None

    row = (wait_for(settled, wait) if wait else None) or read()
    if row is None:
        raise NotFound
    now = timezone.now()
    deployment = Deployment.objects.filter(relay=container_id).order_by("-pk").first()
    tests = RelayHealth.objects.filter(relay=container_id, at__gt=now - _DAY).order_by("-at")[:MOST_PROOFS]
    return ContainerState(
        container=Container(
            **_container(
                row, is_staff=request.user.is_staff, is_chinese=(get_language() or "").startswith("zh")
            )
        ),
        deployment=_deployment(deployment, now) if deployment else None,
        proofs=[_proof(health) for health in tests],
    )


def _deployment(deployment: Deployment, now: datetime) -> DeploymentState:
    return DeploymentState(
        deployment_id=deployment.pk,
        status=Deployment.Status(deployment.status),
        reason=deployment.reason,
        created_at=deployment.created_at,
        finished_at=deployment.finished_at,
        steps=[DeploymentStep.model_validate(step) for step in name_steps(deployment.step_times(now))],
    )


@container.does("/{container_id}/probe", ContainerProbed, later=True)
def container_probe(request: ApiRequest, container_id: Pk, wait: Wait = 0) -> Any:
    """Have a relay tested: a packet is sent through it as a device would, and STUN is asked.

    Where a test is under way already, that one is followed.
    """
    consume(request, group="relay-probe", key=str(request.user.pk), rate=PROBE_RATE)
    relay = _find(request, container_id)
    if relay.status == Relay.Status.RELEASED:
        raise NotFound
    if relay.rental is None or relay.rental.user_id != request.user.pk:
        ask_scope(request, Scope.OPERATE)
    now = timezone.now()
    if not ask_probe(relay=relay, now=now):
        now = Relay.objects.values_list("probe_asked_at", flat=True).get(pk=relay.pk) or now
    tests = RelayHealth.objects.filter(relay=relay, at__gte=now).order_by("-pk")
    health = wait_for(tests.first, wait)
    answer = ContainerProbed(
        message=_("The relay is being tested.") if health is None else _("The relay was tested."),
        container_id=relay.pk,
        follow=_STATUS_PATH.format(relay.pk),
        proof=_proof(health) if health else None,
    )
    return answer if health else accepted(answer)


class ContainerAllocation(Input):
    """Which customer's relay goes where."""

    user_id: Pk = Field(description="The customer.", examples=[7])
    server_id: Pk = Field(description="The server on which the relay is made.", examples=[3])
    port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="Its DERP port (TCP), of the server's range; without it the lowest that is free.",
    )


class ContainerAllocated(Answer):
    """A relay that is being made; it takes its place once it has carried a packet."""

    container_id: Pk = Field(description="The relay's id.")
    derp_port: int = Field(description="TCP.")
    stun_port: int = Field(description="UDP.")
    replaces: Pk | None = Field(
        description="The relay whose place it takes then; null where a place is empty."
    )
    follow: str = Field(description="Where it is read how far it is; with `?wait=30` once it runs.")


@container.does("/allocate", ContainerAllocated, scope=Scope.OPERATE, creates=True, later=True)
def container_allocate(request: ApiRequest, payload: ContainerAllocation) -> Any:
    """Put one of a customer's three relays onto a server.

    A customer has three relays, so it fills an empty place, else it becomes the successor of the one that can best be spared: that runs on
    until the new one has carried a packet, and goes as after any change of relays. The server must be usable, bought, and hold no other relay
    of the customer's. For operators.
    """
    ask_staff(request)
    rental = Rental.objects.visible_to(request.user).filter(user=payload.user_id).first()
    server = Server.objects.visible_to(request.user).filter(pk=payload.server_id).first()
    if rental is None or server is None:
        raise NotFound(field="user_id" if rental is None else "server_id")
    made = allocate_relay(
        rental=rental, server=server, port=payload.port, by=request.user, ip=client_ip(request)
    )
    return accepted(
        ContainerAllocated(
            message=_("A relay is being made on %(server)s.") % {"server": server},
            container_id=made.pk,
            derp_port=made.derp_port,
            stun_port=made.stun_port,
            replaces=made.replaces_id,
            follow=_STATUS_PATH.format(made.pk),
        )
    )


class ContainerReleased(Answer):
    """A relay that goes, and the one that comes."""

    container_id: Pk = Field(description="The relay that goes.")
    successor_id: Pk | None = Field(
        description="The relay that takes its place, before it goes; null for one that had none."
    )
    follow: str = Field(
        description="Where it is read how far the one that comes is, or else the one that goes."
    )


@container.does(
    "/release/{container_id}", ContainerReleased, scope=Scope.OPERATE, later=True, method="DELETE"
)
def container_release(request: ApiRequest, container_id: Pk) -> Any:
    """Give a relay up: another is made in its place, elsewhere where there is an elsewhere, and it goes once that has carried a packet.

    The customer never has fewer relays meanwhile. Where no server has room for another, nothing is done. For operators.
    """
    ask_staff(request)
    relay = _find(request, container_id)
    made = release_relay(relay=relay, by=request.user, ip=client_ip(request))
    return accepted(
        ContainerReleased(
            message=_("The relay on %(server)s goes.") % {"server": relay.server}
            if made is None
            else _("A relay is being made on %(new)s; it takes the place of the one on %(server)s.")
            % {"new": made.server, "server": relay.server},
            container_id=relay.pk,
            successor_id=made.pk if made else None,
            follow=_STATUS_PATH.format(made.pk if made else relay.pk),
        )
    )
