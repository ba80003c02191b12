"""Planning, and what came of making a relay so.

`plan_relays` decides what a customer should have; the functions below it write down what a job found. Every change of a
relay's state is a conditional UPDATE, so that work which was decided meanwhile is never overwritten.
"""

from collections import defaultdict
from datetime import datetime, timedelta

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Count, F, Q
from django.utils import timezone

from accounts.models import User
from accounts.services import log_operation
from containers import placement
from containers.certificates import make_certificate
from containers.derp.keys import generate_mesh_key, generate_private_key, public_key_of
from containers.derp.probe import ProbeResult, ProbeTarget
from containers.models import Deployment, Relay, RelayHealth
from containers.spec import RelaySpec
from derpmgmt.lib import queue
from derpmgmt.lib.jobs import JobRecord, Problem
from fleet.models import Server
from serials.models import Rental
from serials.services import bound_servers, credit_waiting_time

SLOTS = (1, 2, 3)
# A failed try is repeated after 5 s, 10 s, … at most every 5 minutes.
RETRY_PAUSE = timedelta(seconds=5)
RETRY_PAUSE_LONGEST = timedelta(minutes=5)
# A server on which a customer's relay failed is not tried again for him within this time while others are left.
AVOID_FOR = timedelta(minutes=10)
# These failures are of a port, not of a server: another port of the same server may do.
PORT_FAILURES = ("port_taken",)
# These are the panel's own: no other server would help.
PANEL_FAILURES = ("no_image", "internal")
# A port found taken by a stranger is not tried again for a day.
PORT_AVOID_FOR = timedelta(days=1)
_PLAN_TRIES = 5


def plan_relays(*, rental_pk: int, now: datetime | None = None) -> None:
    """Make the rows say what the rental's customer should have, and ring for the changes.

    An entitled rental wants three relays on three different usable servers, any other none. A relay that never came up and
    whose server or port is at fault is replaced elsewhere where there is an elsewhere. May run at any time and twice.
    """
    for attempt in range(_PLAN_TRIES):
        try:
            with transaction.atomic():
                _plan(rental_pk, now or timezone.now())
            return
        except IntegrityError:
            # Another plan took the same port between our look and our insert.
            if attempt == _PLAN_TRIES - 1:
                raise


def _plan(rental_pk: int, now: datetime) -> None:
    rental = Rental.objects.select_for_update().get(pk=rental_pk)
    live = list(rental.relays.live().select_related("server"))
    if not rental.is_entitled(now):
        for relay in live:
            _give_up(relay)
        return
    kept = [relay for relay in live if relay.slot is not None]
    broken = [relay for relay in kept if _is_hopeless(relay, now)]
    # Locked, so that two plans never both take a server's last place.
    # (MariaDB knows no FOR UPDATE OF, so nothing is joined here.)
    servers = list(Server.objects.select_for_update().usable().due_for_contact(now).order_by("pk"))
    failed_lately = set(
        rental.relays.filter(failed_at__gt=now - AVOID_FOR)
        .exclude(failure_code__in=["", *PORT_FAILURES, *PANEL_FAILURES])
        .values_list("server_id", flat=True)
    )
    views, free = _look(servers, now)
    healthy = [relay for relay in kept if relay not in broken]
    bound = bound_servers(rental, now)
    chosen = placement.choose_servers(
        views,
        len(SLOTS) - len(healthy),
        taken={relay.server_id for relay in healthy} | failed_lately,
        bound=bound,
        regions_used=[str(relay.server.region_id) for relay in healthy],
    )
    empty = len(SLOTS) - len(kept)
    # New places first; a broken relay goes only where another can take its place.
    for relay in broken[: max(0, len(chosen) - empty)]:
        _give_up(relay)
        kept.remove(relay)
    by_pk = {server.pk: server for server in servers}
    slots = [slot for slot in SLOTS if slot not in {relay.slot for relay in kept}]
    # A server that only holds a broken relay which stays is no place for another of the same customer.
    standing = {relay.server_id for relay in kept}
    for slot, server_pk in zip(slots, [pk for pk in chosen if pk not in standing], strict=False):
        ports = free[server_pk]
        _create_relay(rental, by_pk[server_pk], slot, ports[0], ports[1], now)


def _is_hopeless(relay: Relay, now: datetime) -> bool:
    """Whether a relay that never carried a packet had better be made elsewhere."""
    if relay.proven_at is not None:
        return False
    if relay.status == Relay.Status.FAILED:
        return relay.failure_code not in PANEL_FAILURES
    resting = relay.server.next_contact_at
    return relay.status == Relay.Status.PLANNED and resting is not None and resting > now


def _give_up(relay: Relay) -> None:
    moved = (
        Relay.objects.filter(pk=relay.pk)
        .exclude(status__in=[Relay.Status.REMOVING, Relay.Status.RELEASED])
        .update(status=Relay.Status.REMOVING, slot=None, try_after=None, failures=0)
    )
    if moved:
        queue.announce("relay_changed", relay.pk)


def _look(
    servers: list[Server], now: datetime
) -> tuple[list[placement.ServerView], dict[int, tuple[int, int]]]:
    """What placement needs, and for each server with room its lowest free DERP and STUN ports."""
    tcp: dict[int, set[int]] = defaultdict(set)
    udp: dict[int, set[int]] = defaultdict(set)
    counts: dict[int, int] = defaultdict(int)
    in_use = Relay.objects.filter(server__in=servers).filter(
        ~Q(status=Relay.Status.RELEASED)
        | Q(failure_code__in=PORT_FAILURES, failed_at__gt=now - PORT_AVOID_FOR)
    )
    for server_pk, derp, stun, status in in_use.values_list("server_id", "derp_port", "stun_port", "status"):
        tcp[server_pk].add(derp)
        udp[server_pk].add(stun)
        counts[server_pk] += status != Relay.Status.RELEASED
    views, free = [], {}
    for server in servers:
        tcp_range = range(server.tcp_port_first, server.tcp_port_last + 1)
        udp_range = range(server.udp_port_first, server.udp_port_last + 1)
        derp_port = placement.choose_port(tcp_range, tcp[server.pk])
        stun_port = placement.choose_port(udp_range, udp[server.pk])
        if derp_port is not None and stun_port is not None:
            free[server.pk] = (derp_port, stun_port)
        views.append(
            placement.ServerView(
                pk=server.pk,
                region=str(server.region_id),
                capacity=server.capacity,
                relays=counts[server.pk],
                free_derp_ports=int(derp_port is not None),
                free_stun_ports=int(stun_port is not None),
                load=server.load_ratio,
            )
        )
    return views, free


def new_relay(*, server: Server, derp_port: int, stun_port: int, now: datetime) -> Relay:
    """A relay that is not saved yet, with a certificate for the server's address and keys of its own."""
    certificate = make_certificate(server.address, now)
    private_key = generate_private_key()
    return Relay(
        server=server,
        derp_port=derp_port,
        stun_port=stun_port,
        certificate=certificate.pem,
        certificate_key=certificate.key_pem,
        certificate_sha256=certificate.sha256,
        certificate_address=server.address,
        certificate_ends_at=certificate.not_after,
        private_key=private_key,
        public_key=public_key_of(private_key),
        mesh_key=generate_mesh_key(),
    )


def _create_relay(
    rental: Rental, server: Server, slot: int, derp_port: int, stun_port: int, now: datetime
) -> None:
    relay = new_relay(server=server, derp_port=derp_port, stun_port=stun_port, now=now)
    relay.rental, relay.slot = rental, slot
    relay.save()
    queue.announce("relay_changed", relay.pk)


def spec_of(relay: Relay, image: str) -> RelaySpec:
    """The container that this relay should be."""
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


def renew_certificate(*, relay: Relay, now: datetime) -> None:
    """Give a relay a certificate for its server's present address, and have its container remade with it."""
    certificate = make_certificate(relay.server.address, now)
    with transaction.atomic():
        changed = (
            Relay.objects.filter(pk=relay.pk, certificate_sha256=relay.certificate_sha256)
            .exclude(status__in=[Relay.Status.REMOVING, Relay.Status.RELEASED])
            .update(
                certificate=certificate.pem,
                certificate_key=certificate.key_pem,
                certificate_sha256=certificate.sha256,
                certificate_address=relay.server.address,
                certificate_ends_at=certificate.not_after,
                status=Relay.Status.PLANNED,
                try_after=None,
            )
        )
        if changed:
            queue.announce("relay_changed", relay.pk)


def follow_server(*, server_pk: int, now: datetime) -> None:
    """After a server's addresses changed: a relay whose certificate names another one gets a new one, the rest are remade."""
    server = Server.objects.get(pk=server_pk)
    for relay in server.relays.live().select_related("server"):
        if relay.certificate_address != server.address:
            renew_certificate(relay=relay, now=now)
        else:
            request_repair(relay_pk=relay.pk)


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
    """Write down what a test of a relay found."""
    health = RelayHealth.objects.create(
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
    )
    Relay.objects.filter(pk=relay.pk).update(last_health=health)
    return health


def record_running(*, relay: Relay, image: str, now: datetime) -> None:
    """The relay carried a packet: it runs. The first one ends the customer's wait, and the time lost is given back."""
    with transaction.atomic():
        moved = Relay.objects.filter(
            pk=relay.pk, status__in=[Relay.Status.PLANNED, Relay.Status.FAILED, Relay.Status.RUNNING]
        ).update(status=Relay.Status.RUNNING, image=image, failures=0, try_after=None, failure_code="")
        Relay.objects.filter(pk=relay.pk, proven_at=None).update(proven_at=now)
        if not moved or relay.rental_id is None:
            return
        credit_waiting_time(rental_pk=relay.rental_id, now=now)
        queue.announce("relays_changed", relay.rental_id)


def record_failure(*, relay: Relay, problem: Problem, now: datetime) -> None:
    """The relay could not be made so: try again later, and let the plan find another server where that helps."""
    pause = min(RETRY_PAUSE * 2 ** min(relay.failures, 10), RETRY_PAUSE_LONGEST)
    with transaction.atomic():
        Relay.objects.filter(pk=relay.pk).update(
            failures=F("failures") + 1, try_after=now + pause, failure_code=problem.code[:32], failed_at=now
        )
        moved = Relay.objects.filter(
            pk=relay.pk, status__in=[Relay.Status.PLANNED, Relay.Status.RUNNING, Relay.Status.FAILED]
        ).update(status=Relay.Status.FAILED)
        if moved and relay.rental_id is not None:
            queue.announce("rental_changed", relay.rental_id)


def record_released(*, relay: Relay, now: datetime) -> None:
    """Nothing of the relay is left on its host. A throw-away relay's row goes too."""
    if relay.is_throwaway:
        Relay.objects.filter(pk=relay.pk).delete()
        return
    with transaction.atomic():
        released = Relay.objects.filter(pk=relay.pk, status=Relay.Status.REMOVING).update(
            status=Relay.Status.RELEASED, slot=None, released_at=now, try_after=None
        )
        if released and relay.rental_id is not None:
            queue.announce("relays_changed", relay.rental_id)
            queue.announce("rental_changed", relay.rental_id)


def request_repair(*, relay_pk: int) -> bool:
    """Have a relay that is said to run looked at and put right; False when it is being worked on anyway."""
    with transaction.atomic():
        moved = Relay.objects.filter(pk=relay_pk, status=Relay.Status.RUNNING).update(
            status=Relay.Status.PLANNED, try_after=None
        )
        if moved:
            queue.announce("relay_changed", relay_pk)
    return bool(moved)


def retry_relay(*, relay: Relay, by: User | None) -> None:
    """Try a failed relay again now, and its server too even if that is being rested."""
    with transaction.atomic():
        Relay.objects.filter(
            pk=relay.pk, status__in=[Relay.Status.FAILED, Relay.Status.PLANNED, Relay.Status.REMOVING]
        ).update(try_after=None)
        Relay.objects.filter(pk=relay.pk, status=Relay.Status.FAILED).update(status=Relay.Status.PLANNED)
        Server.objects.filter(pk=relay.server_id).update(next_contact_at=None)
        log_operation(
            by=by,
            action="relay.retried",
            target=relay.pk,
            subject=relay.rental.user if relay.rental else None,
        )
        queue.announce("relay_changed", relay.pk)


def ask_probe(*, relay: Relay, now: datetime) -> bool:
    """Have a relay tested; False when a test asked for in the last ten seconds is still under way."""
    recently = now - timedelta(seconds=10)
    with transaction.atomic():
        asked = (
            Relay.objects.live()
            .filter(pk=relay.pk)
            .filter(
                Q(probe_asked_at=None)
                | Q(probe_asked_at__lt=recently)
                | Q(last_health__at__gt=F("probe_asked_at"))
            )
            .values_list("pk", flat=True)
        )
        moved = Relay.objects.filter(pk__in=list(asked)).update(probe_asked_at=now)
        if moved:
            queue.announce("probe_asked", relay.pk)
    return bool(moved)


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
        .filter(Q(try_after=None) | Q(try_after__lte=now))
        .exclude(deployments__status=JobRecord.Status.RUNNING)
        .order_by("try_after", "pk")[:limit]
    )


def due_rentals(now: datetime, limit: int = 500) -> list[int]:
    """Rentals whose relays are not as many as they should be."""
    standing = Count("relays", filter=Q(relays__slot__isnull=False))
    short = Rental.objects.entitled(now).annotate(standing=standing).filter(standing__lt=len(SLOTS))
    entitled = Q(rental__paused_at=None, rental__closed_at=None, rental__ends_at__gt=now)
    surplus = (
        Relay.objects.live()
        .exclude(status=Relay.Status.REMOVING)
        .filter(rental__isnull=False)
        .exclude(entitled)
        .values_list("rental_id", flat=True)
    )
    return list(dict.fromkeys([*short.values_list("pk", flat=True)[:limit], *surplus[:limit]]))
