"""Relays as rows: making and giving them up, and what came of making one so.

What a customer should have is decided in `planning` and `rotation`; the functions here write down what a job found. Every
change of a relay's state is a conditional UPDATE, so that work which was decided meanwhile is never overwritten. Where a
rental's row is locked too, it is locked first.
"""

from datetime import datetime, timedelta

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import F

from accounts.services import log_operation, take_back_notices
from containers import proof_times
from containers.derp.keys import generate_mesh_key, generate_private_key, public_key_of
from containers.derp.probe import ProbeResult, ProbeTarget
from containers.gate import gate_url
from containers.models import RETRY, Deployment, Relay, RelayHealth
from containers.spec import INNER_STUN_PORT, RelaySpec
from derpmgmt.lib import queue
from derpmgmt.lib.jobs import JobRecord, Problem
from fleet.models import Server
from serials.rentals.limits import CAP_FIELDS
from serials.rentals.models import Rental
from serials.rentals.services import credit_waiting_time, lock_rental, request_plan

# A relay that retires is asked after this time for the first time whether devices are still connected to it: until then
# every device that looks after its map has gone over, and one that merely starts anew is back.
FIRST_LOOK_AFTER = timedelta(hours=1)


def new_relay(*, server: Server, derp_port: int, stun_port: int, now: datetime) -> Relay:
    """A relay that is not saved yet, with a certificate for the server's address and keys of its own."""
    from containers.certificates import make_certificate  # here: few processes make any

    certificate = make_certificate(server.address, now)
    private_key = generate_private_key()
    return Relay(
        server=server,
        derp_port=derp_port,
        stun_port=stun_port,
        inner_stun_port=inner_port(stun_port),
        certificate=certificate.pem,
        certificate_key=certificate.key_pem,
        certificate_sha256=certificate.sha256,
        certificate_address=server.address,
        certificate_ends_at=certificate.not_after,
        private_key=private_key,
        public_key=public_key_of(private_key),
        mesh_key=generate_mesh_key(),
    )


def inner_port(stun_port: int) -> int:
    """STUN's port inside the container of a relay that is made now: the same number as on the host.

    A packet that arrives while a relay is away leaves an entry in the host's connection tracking that leads to the host itself,
    and each further one keeps it for 30 s more. Docker deletes such entries when it publishes a port, but version 29 looks for
    them by the container's port instead of the host's (DeleteConntrackEntriesByPort in its libnetwork), so that without the
    userland proxy a client that goes on sending from one port is never answered again. Where both are one number, it finds them.
    Ports below 1024 are not for the unprivileged user inside.
    """
    return stun_port if stun_port >= 1024 else INNER_STUN_PORT


def has_form_of_today(relay: Relay) -> bool:
    """Whether its container is one as relays get now: by STUN's port inside, and by its taking rates."""
    return relay.takes_rate and relay.inner_stun_port == inner_port(relay.stun_port)


def needs_form_of_today(relay: Relay) -> bool:
    """Whether it is to do what only a container of today does."""
    return relay.rate is not None and not relay.takes_rate


def renew_form(*, relay: Relay) -> None:
    """Let a relay whose container has to be made anyway have one as relays get now."""
    relay.inner_stun_port, relay.takes_rate = inner_port(relay.stun_port), True
    Relay.objects.filter(pk=relay.pk).update(
        inner_stun_port=relay.inner_stun_port, takes_rate=relay.takes_rate
    )


def create_relay(
    rental: Rental,
    server: Server,
    ports: tuple[int, int],
    now: datetime,
    *,
    slot: int | None = None,
    replaces: Relay | None = None,
) -> Relay:
    """Plan a relay on these (DERP, STUN) ports of a server, for a place or as the successor of another.

    What was said about the limits of the one that had the place last counts for it too.
    """
    relay = new_relay(server=server, derp_port=ports[0], stun_port=ports[1], now=now)
    relay.rental, relay.slot, relay.replaces = rental, slot, replaces
    said = (*CAP_FIELDS, "cap_note")
    before = replaces or rental.relays.filter(place=slot).only(*said).order_by("-pk").first()
    if before is not None:
        for name in said:
            setattr(relay, name, getattr(before, name))
    relay.save()
    queue.announce("relay_to_apply", relay.pk)
    return relay


def give_up(relay: Relay, *, returns: bool = False) -> bool:
    """Have a relay removed from its server; False when it is going already.

    With `returns` only its customer's rights have ended, and it comes back to its place with them.
    """
    moved = (
        Relay.objects.filter(pk=relay.pk)
        .exclude(status__in=[Relay.Status.REMOVING, Relay.Status.RELEASED])
        .update(
            status=Relay.Status.REMOVING,
            slot=None,
            return_slot=relay.slot if returns else None,
            **RETRY.cleared,
        )
    )
    if moved:
        queue.announce("relay_to_apply", relay.pk)
    return bool(moved)


def bring_back(relay: Relay) -> bool:
    """Have a relay that went with its customer's rights made again in its place, with the same ports, keys and certificate.

    It has to prove itself again. False when it has changed since it was read.
    """
    moved = Relay.objects.filter(pk=relay.pk, status=relay.status).update(
        status=Relay.Status.PLANNED,
        slot=relay.return_slot,
        return_slot=None,
        image="",
        failure_code="",
        proven_at=None,
        **RETRY.cleared,
    )
    if moved:
        queue.announce("relay_to_apply", relay.pk)
    return bool(moved)


def spec_of(relay: Relay, image: str) -> RelaySpec:
    """The container that this relay should be.

    It asks its server's gate once that has run: until then, on a panel from before the gates, everybody gets in as ever.
    """
    gate = getattr(relay.server, "gate", None)
    return RelaySpec(
        panel_id=settings.PANEL_ID,
        relay_id=relay.pk,
        address=relay.certificate_address,
        bind_address=relay.server.listen_address,
        derp_port=relay.derp_port,
        stun_port=relay.stun_port,
        image=image,
        certificate_pem=relay.certificate,
        certificate_key_pem=relay.certificate_key,
        private_key=relay.private_key,
        mesh_key=relay.mesh_key,
        verify_url=gate_url(settings.PANEL_ID, relay.pk) if gate and gate.running_since else "",
        fail_open=relay.server.is_fail_open,
        inner_stun_port=relay.inner_stun_port,
        takes_rate=relay.takes_rate,
    )


def target_of(relay: Relay) -> ProbeTarget:
    """Where and how to prove this relay."""
    return ProbeTarget(
        host=relay.server.address,
        derp_port=relay.derp_port,
        stun_port=relay.stun_port,
        cert_sha256=relay.certificate_sha256,
        public_key=relay.public_key,
        mesh_key=relay.mesh_key,
    )


def start_deployment(*, relay: Relay) -> Deployment | None:
    """Open and claim the relay's deployment; None when another worker has it."""
    deployment = relay.deployments.open().first()
    if deployment is None:
        try:
            with transaction.atomic():
                deployment = Deployment.objects.create(relay=relay)
        except IntegrityError:
            return None
    return deployment if deployment.claim() else None


def record_probe(*, relay: Relay, result: ProbeResult) -> RelayHealth:
    """Write down what a test of a relay found, and when the next one is due."""
    health = RelayHealth(
        relay=relay,
        is_ok=result.ok,
        step=result.step,
        cause=result.cause,
        detail=result.detail,
        tcp_ms=result.tcp_ms,
        tls_ms=result.tls_ms,
        handshake_ms=result.handshake_ms,
        packet_ms=result.packet_ms,
        stun_ms=result.stun_ms,
        tcp_jitter_ms=result.tcp_jitter_ms,
        stun_jitter_ms=result.stun_jitter_ms,
        stun_loss=result.stun_loss,
        mapped_address=result.mapped_address or None,
    )
    with transaction.atomic():
        row = (
            Relay.objects.select_for_update()
            .only("failing_since", "failing_told_at")
            .filter(pk=relay.pk)
            .first()
        )
        if row is None:  # gone while it was tested
            return health
        health.save()
        since = None if result.ok else row.failing_since or health.at
        # A test changes nothing that a map would tell, so it does not count as a change of the row.
        Relay.objects.filter(pk=relay.pk).update(
            last_health=health,
            failing_since=since,
            failing_told_at=None if result.ok else row.failing_told_at,
            prove_after=proof_times.next_proof(relay.pk, health.at, since),
            changed_at=F("changed_at"),
        )
        if result.ok and row.failing_since and row.failing_told_at:
            take_back_notices(key=proof_times.failing_key(relay.pk, row.failing_since))
    return health


def record_running(*, relay: Relay, image: str, now: datetime) -> None:
    """The relay carried a packet: it runs. The first one ends the customer's wait, and the time lost is given back.

    A successor takes the place of the relay that it replaces, which then retires. The map follows (`acl.maps.services.regions`).
    """
    with transaction.atomic():
        if relay.rental_id is not None:
            lock_rental(relay.rental_id)
        moved = Relay.objects.filter(
            pk=relay.pk, status__in=[Relay.Status.PLANNED, Relay.Status.FAILED, Relay.Status.RUNNING]
        ).update(status=Relay.Status.RUNNING, image=image, failure_code="", **RETRY.cleared)
        if Relay.objects.filter(pk=relay.pk, proven_at=None).update(proven_at=now, released_at=None):
            _log(relay, "relay.ready")
        if not moved or relay.rental_id is None:
            return
        _take_over(relay, now)
        credit_waiting_time(rental_pk=relay.rental_id, now=now)
        queue.announce("rental_relays_changed", relay.rental_id)


def _take_over(successor: Relay, now: datetime) -> None:
    """Let a proven successor have the place of the relay that it replaces; harmless for any other relay."""
    row = Relay.objects.select_related("replaces").get(pk=successor.pk)
    old = row.replaces
    if row.slot is not None or row.retiring_since or old is None or old.slot is None:
        return
    Relay.objects.filter(pk=old.pk).update(slot=None, retiring_since=now, try_after=now + FIRST_LOOK_AFTER)
    Relay.objects.filter(pk=row.pk).update(slot=old.slot)


def record_failure(*, relay: Relay, problem: Problem, now: datetime) -> None:
    """The relay could not be made so: try again later, and let the plan find another server where that helps."""
    with transaction.atomic():
        if relay.rental_id is not None:
            lock_rental(relay.rental_id)
        Relay.objects.filter(pk=relay.pk).update(**RETRY.failed(relay.failures, now, problem.code))
        moved = Relay.objects.filter(
            pk=relay.pk, status__in=[Relay.Status.PLANNED, Relay.Status.RUNNING, Relay.Status.FAILED]
        ).update(status=Relay.Status.FAILED)
        if moved and relay.rental_id is not None:
            request_plan(rental_pk=relay.rental_id, now=now)


def record_released(*, relay: Relay, now: datetime) -> None:
    """Nothing of the relay is left on its host. A throw-away relay's row goes too."""
    if relay.is_throwaway:
        Relay.objects.filter(pk=relay.pk).delete()
        return
    with transaction.atomic():
        if relay.rental_id is not None:
            lock_rental(relay.rental_id)
        released = Relay.objects.filter(pk=relay.pk, status=Relay.Status.REMOVING).update(
            status=Relay.Status.RELEASED,
            slot=None,
            released_at=now,
            try_after=None,
            failing_since=None,
            failing_told_at=None,
        )
        if released:
            _log(relay, "relay.removed")
        if released and relay.rental_id is not None:
            queue.announce("rental_relays_changed", relay.rental_id)
            request_plan(rental_pk=relay.rental_id, now=now)


def _log(relay: Relay, action: str) -> None:
    """Write into the customer's history what became of their relay: its row forgets that when the relay comes back."""
    if relay.rental_id is None:
        return
    row = Relay.objects.select_related("server__region", "rental__user").get(pk=relay.pk)
    assert row.rental is not None
    log_operation(
        by=None,
        action=action,
        target=row,
        subject=row.rental.user,
        server=row.server.name,
        region_zh=row.server.region.name_zh,
        region_en=row.server.region.name_en,
        address=row.certificate_address,
        derp_port=row.derp_port,
        stun_port=row.stun_port,
    )


def has_running_relay(*, rental_pk: int) -> list[bool]:
    """Answer to "has_running_relay": whether one of the customer's relays has proven itself and still stands."""
    running = Relay.objects.filter(rental=rental_pk, status=Relay.Status.RUNNING, slot__isnull=False)
    return [running.exists()]


def server_relays(server_pk: int) -> list[int]:
    """Answer to "server_relays": the relays that still stand on a server."""
    return list(Relay.objects.live().filter(server_id=server_pk).values_list("pk", flat=True))


def end_lost_deployments(now: datetime) -> int:
    """Close the deployments whose worker died; their relays are found again by `due_relays`."""
    return Deployment.objects.lost(now).update(status=JobRecord.Status.LOST, finished_at=now)


def due_relays(now: datetime, limit: int = 200) -> list[Relay]:
    """Relays that something is to be done about and nobody is doing it, the longest waiting first."""
    return list(
        Relay.objects.filter(
            status__in=[Relay.Status.PLANNED, Relay.Status.FAILED, Relay.Status.REMOVING],
            rental__isnull=False,
        )
        .filter(RETRY.due(now))
        .exclude(deployments__status=JobRecord.Status.RUNNING)
        .order_by("try_after", "pk")[:limit]
    )
