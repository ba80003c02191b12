"""What RQ runs for relays: take a primary key, claim, do, record. Every job may die at any line and run twice."""

import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial

from django.conf import settings
from django.db import connection
from django.utils import timezone, translation
from django.utils.translation import gettext_lazy as _
from django.utils.translation import gettext_noop

from containers import deploy
from containers.derp.presence import has_devices
from containers.derp.probe import CAUSES, ProbeResult
from containers.derp.probe import probe_relay as run_probe
from containers.models import Deployment, Relay, ServerCheck
from containers.services import checks, images, planning, relays, rotation, visits
from derpmgmt.lib import queue
from derpmgmt.lib.jobs import Heartbeat, JobRecord, Problem, worker_name
from fleet import facts
from fleet import services as fleet_services
from fleet.contact import contact
from fleet.engine import EngineError
from fleet.models import Server
from fleet.ssh import RemoteError
from serials.services import PLAN_AGAIN

log = logging.getLogger(__name__)

INTERNAL_ERROR = gettext_noop("The panel made a mistake here; it is in its log.")

# A visit round reaches this many of its shard's servers at once.
VISIT_THREADS = 8
# A relay that was started a moment ago gets this many tries to carry its packet.
_PROBE_TRIES = 3
# What a server needs to be taken into use.
MIN_DISK_BYTES = 1_000_000_000
MAX_CLOCK_SECONDS = 30.0


class ServerResting(RemoteError):
    """The server did not answer lately and is left alone for a while."""

    code = "server_resting"
    sentence = _("The server did not answer lately; it is tried again in a while.")


class ProbeFailed(RemoteError):
    """The relay runs but did not carry a packet."""

    code = "probe_failed"


class ClaimLost(Exception):
    """This worker was held for dead and its work given to another: stop at once."""


def apply_queue(relay_pk: int) -> str:
    """The queue that serves the server of a relay."""
    server_pk = Relay.objects.filter(pk=relay_pk).values_list("server_id", flat=True).first()
    return server_queue(server_pk or 0)


def server_queue(server_pk: int) -> str:
    """The queue of all changes of a server."""
    return f"apply-{server_pk % settings.SHARDS}"


def plan_rental(rental_pk: int) -> None:
    """Make the rows say what the customer should have."""
    planning.plan_relays(rental_pk=rental_pk)


def follow_server(server_pk: int) -> None:
    """A server's public address, or the one on the machine, is another."""
    relays.follow_server(server_pk=server_pk, now=timezone.now())


def plan_waiting(server_pk: int) -> None:
    """A server became usable: plan those who wait for one."""
    for rental_pk in planning.due_rentals(timezone.now() + PLAN_AGAIN):
        planning.plan_relays(rental_pk=rental_pk)


@contextmanager
def _working(server_pk: int, record: JobRecord) -> Iterator[None]:
    """Keep lease and record alive while the work sits in long calls."""
    renew = partial(fleet_services.renew_lease, server_pk=server_pk, holder=worker_name())
    with Heartbeat(record.beat, renew):
        yield


def apply_relay(relay_pk: int) -> None:
    """Make one relay's container match its spec, or remove it; ends with an end-to-end test."""
    relay = Relay.objects.select_related("server__credential", "rental__user").filter(pk=relay_pk).first()
    if relay is None or relay.is_throwaway:
        return
    if relay.status in {Relay.Status.RUNNING, Relay.Status.RELEASED}:
        return  # rung for twice
    if relay.try_after is not None and relay.try_after > timezone.now():
        return
    with fleet_services.lease(relay.server_id, worker_name()) as is_ours:
        if not is_ours:
            return  # whoever has it; the sweep rings again
        deployment = relays.start_deployment(relay=relay)
        if deployment is None:
            return
        relay.refresh_from_db(fields=["status", "slot"])
        try:
            with _working(relay.server_id, deployment):
                if relay.status == Relay.Status.REMOVING:
                    _remove(relay, deployment)
                else:
                    _make_so(relay, deployment)
        except ClaimLost:
            log.warning("deployment %s was taken away", deployment.pk)
        except RemoteError as error:
            problem = Problem.of(error)
            relays.record_failure(relay=relay, problem=problem, now=timezone.now())
            deployment.write(f"✗ {problem.code}: {problem.detail or problem.sentence % problem.values}")
            deployment.finish(JobRecord.Status.FAILED, problem)
        except Exception:
            log.exception("deployment %s", deployment.pk)
            problem = Problem("internal", INTERNAL_ERROR)
            relays.record_failure(relay=relay, problem=problem, now=timezone.now())
            deployment.finish(JobRecord.Status.ERRORED, problem)


def _step(record: JobRecord, name: str, text: str = "") -> None:
    if not record.write(text, step=name):
        raise ClaimLost


def _check_rest(server: Server) -> None:
    server.refresh_from_db(fields=["next_contact_at"])
    if server.next_contact_at is not None and server.next_contact_at > timezone.now():
        raise ServerResting()


def _make_so(relay: Relay, deployment: Deployment) -> None:
    archive = images.find_image(relay.image)
    spec = relays.spec_of(relay, archive.tag)
    _step(deployment, "connect", f"{relay.server.name} ({relay.server.ssh_address})")
    _check_rest(relay.server)
    with contact(relay.server) as reached:
        try:
            deploy.make_so(reached.engine, spec, archive, partial(_step, deployment))
        except RemoteError:
            # What a failed try left on the host goes, volumes too; where that fails, the sweep or the visit does it.
            with suppress(RemoteError):
                deploy.remove_relay(reached.engine, settings.PANEL_ID, relay.pk)
            raise
    _step(deployment, "probe", f"{relay.server.address}:{relay.derp_port}")
    result = prove(relay)
    relays.record_probe(relay=relay, result=result)
    if not result.ok:
        raise ProbeFailed(CAUSES[result.cause], code=result.cause, detail=result.detail)
    _step(deployment, "done", f"handshake {result.handshake_ms:.1f} ms, packet {result.packet_ms:.1f} ms")
    relays.record_running(relay=relay, image=archive.tag, now=timezone.now())
    deployment.finish(JobRecord.Status.DONE)


def prove(relay: Relay) -> ProbeResult:
    """Carry a packet through a relay, with a few tries since it may have started a moment ago."""
    target = relays.target_of(relay)
    for attempt in range(_PROBE_TRIES):
        result = run_probe(target)
        if result.ok or attempt == _PROBE_TRIES - 1:
            break
        time.sleep(0.3 * (attempt + 1))
    return result


def _remove(relay: Relay, deployment: Deployment) -> None:
    _step(deployment, "connect", f"{relay.server.name} ({relay.server.ssh_address})")
    _check_rest(relay.server)
    with contact(relay.server) as reached:
        _step(deployment, "remove")
        deploy.remove_relay(reached.engine, settings.PANEL_ID, relay.pk)
    relays.record_released(relay=relay, now=timezone.now())
    deployment.finish(JobRecord.Status.DONE)


def probe_relay(relay_pk: int) -> None:
    """Test a relay because somebody asked."""
    relay = Relay.objects.live().select_related("server").filter(pk=relay_pk).first()
    if relay is not None:
        relays.record_probe(relay=relay, result=run_probe(relays.target_of(relay)))


def rotate_certificates() -> None:
    """Give the relays whose certificate is near its end successors."""
    now = timezone.now()
    for relay in rotation.due_rotations(now):
        rotation.rotate_relay(relay=relay, now=now)


def sweep_retiring() -> None:
    """Ring for the retiring relays that may go now."""
    for relay_pk in rotation.due_retirements(timezone.now()):
        queue.enqueue(retire_relay, relay_pk, queue="slow", is_again=True)


def retire_relay(relay_pk: int) -> None:
    """Remove a retiring relay when its grace is over, or when it says itself that no device is connected to it."""
    relay = Relay.objects.retiring().select_related("server").filter(pk=relay_pk).first()
    if relay is None:
        return
    now = timezone.now()
    if rotation.is_grace_over(relay, now) or (
        rotation.may_be_asked(relay, now) and has_devices(relays.target_of(relay)) is False
    ):
        rotation.retire_relay(relay=relay)
    else:
        rotation.record_in_use(relay=relay, now=now)


def visit_servers(shard: int) -> None:
    """One round over the servers of a shard: what stands there is read, compared, and repairs are rung for."""
    due = [
        server
        for server in Server.objects.managed().due_for_contact(timezone.now()).select_related("credential")
        if server.pk % settings.SHARDS == shard
    ]
    if not due:
        return

    def visit(server: Server) -> None:
        try:
            visit_server(server)
        except RemoteError as error:
            log.warning("visit of %s: %s %s", server.name, error.code, error.detail)
        except Exception:
            log.exception("visit of %s", server.name)

    def visit_in_thread(server: Server) -> None:
        try:
            visit(server)
        finally:
            connection.close()

    if len(due) == 1:
        visit(due[0])
        return
    with ThreadPoolExecutor(min(VISIT_THREADS, len(due))) as pool:
        list(pool.map(visit_in_thread, due))


def visit_server(server: Server) -> None:
    """Read one server and write down what was found. Raises `RemoteError`."""
    with contact(server) as reached:
        read = facts.read_facts(reached.connection, server.docker_socket)
        found = deploy.read_ours(reached.engine, settings.PANEL_ID)
        volumes = deploy.read_volumes(reached.engine, settings.PANEL_ID)
        changed = set()
        for relay in visits.running_relays(server.pk):
            try:
                spec = relays.spec_of(relay, relay.image)
                if deploy.read_differences(reached.engine, spec):
                    changed.add(relay.pk)
            except EngineError as error:
                if error.code != "not_found":
                    raise
                changed.add(relay.pk)
    visits.record_facts(server=server, facts=read, now=timezone.now())
    repaired, orphans = visits.record_containers(server=server, found=found, volumes=volumes, changed=changed)
    if repaired or orphans:
        log.warning("visit of %s: to repair %s, orphans %s", server.name, repaired, orphans)


def remove_orphans(server_pk: int) -> None:
    """Remove what is ours on a server and has no row."""
    server = Server.objects.managed().select_related("credential").filter(pk=server_pk).first()
    if server is None:
        return
    with fleet_services.lease(server.pk, worker_name()) as is_ours:
        if not is_ours:
            return
        try:
            with contact(server) as reached:
                removed = deploy.remove_orphans(reached.engine, settings.PANEL_ID, visits.keepers(server.pk))
        except RemoteError as error:
            log.warning("orphans of %s: %s %s", server.name, error.code, error.detail)
            return
    log.warning("orphans of %s removed: %s", server.name, removed)


def request_check(server_pk: int) -> None:
    """A host key was confirmed: have the server checked."""
    checks.request_check(server_pk=server_pk)


def check_server(server_pk: int) -> None:
    """Check a server step by step, prove it with throw-away relays, and take it into use when all is well."""
    check = ServerCheck.objects.open().select_related("server__credential").filter(server=server_pk).first()
    if check is None:
        return
    server = check.server
    with fleet_services.lease(server.pk, worker_name()) as is_ours:
        if not is_ours or not check.claim():
            return
        try:
            with _working(server.pk, check):
                is_good = _check(server, check)
        except ClaimLost:
            return
        except RemoteError as error:
            is_good = False
            problem = Problem.of(error)
            checks.add_finding(
                check=check,
                finding=checks.Finding(
                    check.step or "connect", False, problem.sentence, problem.values, detail=problem.detail
                ),
            )
        except Exception:
            log.exception("check of %s", server.name)
            check.finish(
                JobRecord.Status.ERRORED,
                Problem("internal", INTERNAL_ERROR),
            )
            return
        finally:
            checks.drop_throwaways(server=server)
        if is_good:
            fleet_services.accept_server(server=server)
            check.finish(JobRecord.Status.DONE)
            return
        worst = next(finding for finding in check.findings if not finding["is_ok"])
        check.finish(
            JobRecord.Status.FAILED,
            Problem(worst["step"], worst["sentence"], worst["values"], worst["detail"]),
        )


def _check(server: Server, check: ServerCheck) -> bool:
    def found(is_ok: bool, sentence: str, remedy: str = "", **values: object) -> bool:
        finding = checks.Finding(
            check.step, is_ok, sentence, {key: str(value) for key, value in values.items()}, remedy
        )
        checks.add_finding(check=check, finding=finding)
        return is_ok

    _step(check, "connect", f"{server.ssh_address}:{server.ssh_port}")
    with contact(server) as reached:
        found(True, gettext_noop("Signed in; the host key is the confirmed one."))
        _step(check, "docker")
        version = str(reached.engine.version().get("Version", "?"))
        Server.objects.filter(pk=server.pk).update(docker_version=version[:40])
        found(True, gettext_noop("Docker Engine %(version)s answers."), version=version)
        _step(check, "machine")
        read = facts.read_facts(reached.connection, server.docker_socket)
        visits.record_facts(server=server, facts=read, now=timezone.now())
        is_good = found(
            read.disk_free_bytes >= MIN_DISK_BYTES,
            gettext_noop("%(free)s GB of disk are free."),
            gettext_noop("At least 1 GB must be free: delete what is not needed, or order a larger disk."),
            free=f"{read.disk_free_bytes / 1e9:.1f}",
        )
        is_good &= found(
            abs(read.clock_offset) <= MAX_CLOCK_SECONDS,
            gettext_noop("Its clock differs from the panel's by %(offset)s s."),
            gettext_noop("Set up time synchronization on it, for example chrony."),
            offset=f"{read.clock_offset:+.1f}",
        )
        if not is_good:
            return False
        _step(check, "clean")
        archive = images.current_image()
        throwaways = checks.make_throwaways(server=server, now=timezone.now())
        keep = visits.keepers(server.pk)
        deploy.remove_orphans(reached.engine, settings.PANEL_ID, keep)
        if not throwaways:
            return found(False, gettext_noop("No port of its ranges is free."))
        try:
            for relay in throwaways:
                deploy.make_so(
                    reached.engine, relays.spec_of(relay, archive.tag), archive, partial(_step, check)
                )
            _step(check, "ports")
            results = [(relay, prove(relay)) for relay in throwaways]
        finally:
            for relay in throwaways:
                with suppress(RemoteError):
                    deploy.remove_relay(reached.engine, settings.PANEL_ID, relay.pk)
    return _judge_ports(server, check, results)


def _judge_ports(server: Server, check: ServerCheck, results: list[tuple[Relay, ProbeResult]]) -> bool:
    failed = [(relay, result) for relay, result in results if not result.ok]
    if not failed:
        relay, result = results[0]
        for finding in (
            checks.Finding(
                "ports",
                True,
                gettext_noop("The ports at both ends of its ranges are reached, TCP and UDP."),
            ),
            checks.Finding(
                "relay",
                True,
                gettext_noop("A throw-away relay carried a packet in %(packet)s ms."),
                {"packet": f"{result.packet_ms:.1f}"},
            ),
        ):
            checks.add_finding(check=check, finding=finding)
        return True
    for relay, result in failed:
        is_udp = result.step in {"stun", "mapped"}
        port = f"UDP {relay.stun_port}" if is_udp else f"TCP {relay.derp_port}"
        rule = (
            f"UDP {server.udp_port_first}-{server.udp_port_last} 0.0.0.0/0"
            if is_udp
            else f"TCP {server.tcp_port_first}-{server.tcp_port_last} 0.0.0.0/0"
        )
        with translation.override(None):
            cause = str(CAUSES[result.cause])
        checks.add_finding(
            check=check,
            finding=checks.Finding(
                "ports" if result.step in {"connect", "stun"} else "relay",
                False,
                cause,
                remedy=gettext_noop("Allow this in the provider's security group and check again:"),
                rules=[rule],
                detail=f"{port}: {result.detail}",
            ),
        )
    return False


def sweep() -> None:
    """Find from the rows what no bell rang for: what died, what waits, what is due."""
    now = timezone.now()
    relays.end_lost_deployments(now)
    checks.end_lost_checks(now)
    for rental_pk in planning.due_rentals(now):
        queue.enqueue(plan_rental, rental_pk, is_again=True)
    for relay in relays.due_relays(now):
        queue.enqueue(apply_relay, relay.pk, queue=server_queue(relay.server_id), is_again=True)
    for server_pk in checks.due_checks(now):
        queue.enqueue(check_server, server_pk, queue=server_queue(server_pk), is_again=True)
