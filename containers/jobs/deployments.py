"""Making one relay's container as its row says, and the test that ends it."""

import logging
import time
from contextlib import ExitStack, suppress
from functools import partial

from django.conf import settings
from django.utils import timezone

from containers import connection_tracking, deploy
from containers.derp.probe import ProbeResult
from containers.derp.probe import probe_relay as run_probe
from containers.derp.stun import KeptPort
from containers.jobs import gates
from containers.jobs.claims import ClaimLost, server_queue, take_step, working
from containers.jobs.traffic import read_counters
from containers.models import RETRY, Deployment, Relay
from containers.problems import ProbeFailed, ServerResting
from containers.services import images, proving, rates, relays
from containers.spec import rate_files
from derpmgmt.lib import queue
from derpmgmt.lib.jobs import JobRecord, worker_name
from derpmgmt.lib.problems import INTERNAL, Problem
from fleet import services as fleet_services
from fleet.contact import contact, visit_as_guest
from fleet.machine import SameMachine
from fleet.models import CONTACT, Server
from fleet.ssh import RemoteError

log = logging.getLogger(__name__)

# The cause of a test that finds out that customers' devices are led nowhere. What does so is made anew once.
STALE = "stun_stale"
# A relay gets this many tries to carry its packet.
_PROBE_TRIES = 3
# One that was started a moment ago takes so long at most until it listens, and is asked again after such a pause. Until then
# nobody takes the connection, or Docker's proxy does and closes it.
_LISTENS_SECONDS, _LISTENS_PAUSE = 3.0, 0.03
_NOT_LISTENING = {"connect_refused", "tls_closed"}


def apply_queue(relay_pk: int) -> str:
    """The queue that serves the server of a relay."""
    server_pk = Relay.objects.filter(pk=relay_pk).values_list("server_id", flat=True).first()
    return server_queue(server_pk or 0)


@queue.on_queue(apply_queue)
def apply_relay(relay_pk: int) -> None:
    """Make one relay's container match its spec, or remove it; ends with an end-to-end test."""
    relay = Relay.objects.select_related("server__credential", "rental__user").filter(pk=relay_pk).first()
    if relay is None or relay.is_throwaway:
        return
    if relay.status in {Relay.Status.RUNNING, Relay.Status.RELEASED}:
        return  # rung for twice
    if RETRY.rests(relay, timezone.now()):
        return
    with fleet_services.lease(relay.server_id, worker_name()) as is_ours:
        if not is_ours:
            return  # whoever has it; the sweep rings again
        deployment = relays.start_deployment(relay=relay)
        if deployment is None:
            return
        relay.refresh_from_db(fields=["status", "slot"])
        try:
            with working(relay.server_id, deployment):
                if relay.status == Relay.Status.REMOVING:
                    _remove(relay, deployment)
                else:
                    _make_so(relay, deployment)
        except ClaimLost:
            log.warning("deployment %s was taken away", deployment.pk)
        except RemoteError as error:
            problem = Problem.of(error)
            relays.record_failure(relay=relay, problem=problem, now=timezone.now())
            deployment.write(problem=problem, mark="✗")
            deployment.finish(JobRecord.Status.FAILED, problem)
        except Exception:
            log.exception("deployment %s", deployment.pk)
            problem = Problem(INTERNAL)
            relays.record_failure(relay=relay, problem=problem, now=timezone.now())
            deployment.finish(JobRecord.Status.ERRORED, problem)


def _check_rest(server: Server) -> None:
    server.refresh_from_db(fields=["next_contact_at"])
    if CONTACT.rests(server, timezone.now()):
        raise ServerResting()


def _make_so(relay: Relay, deployment: Deployment) -> None:
    with ExitStack() as stack:
        kept = None
        if relay.proven_at is not None:
            # What customers' devices do that have used it: they go on sending from the same port while it is away.
            with suppress(OSError):
                kept = stack.enter_context(KeptPort(relay.server.address, relay.stun_port))
        _make_and_prove(relay, deployment, kept)


def _make_and_prove(relay: Relay, deployment: Deployment, kept: KeptPort | None) -> None:
    take_step(deployment, "connect", f"{relay.server.name} ({relay.server.ssh_address})")
    _check_rest(relay.server)
    relay.refresh_from_db(fields=["rate", "rate_owed_at"])
    with contact(relay.server) as reached:
        last_look = partial(read_counters, reached, relay.server)
        archive = images.find_image(relay.image, reached.engine.architecture)
        gates.ensure_gate(reached.engine, relay, partial(take_step, deployment, "gate"))
        spec = relays.spec_of(relay, archive.tag)
        is_made_anew = relay.failure_code == STALE
        if is_made_anew:
            # Only a new publishing of its port makes the Engine look through the connection tracking again.
            deploy.remove_relay(reached.engine, settings.PANEL_ID, relay.pk, last_look)
        if relays.needs_form_of_today(relay) or (
            not relays.has_form_of_today(relay) and not deploy.runs_as(reached.engine, spec)
        ):
            relays.renew_form(relay=relay)
            spec = relays.spec_of(relay, archive.tag)

        taken: list[str] = []

        def note(step: str) -> None:
            taken.append(step)
            take_step(deployment, step)

        try:
            is_new = deploy.make_so(
                reached.engine,
                spec,
                archive,
                note,
                also=rate_files(relay.rate) if relay.takes_rate else None,
                is_proven_next=True,
                last_look=last_look,
            )
            take_step(deployment, "probe", f"{relay.server.address}:{relay.derp_port}")
            if is_new and kept is not None:
                connection_tracking.forget_flows(reached.engine, relay.stun_port)
            result = prove(relay, kept, has_just_started=is_new)
            if is_made_anew and result.cause == STALE:
                # Neither the Engine nor the host forgets, and each try would take the relay away from all others once more.
                deployment.write(problem=Problem("stun_stays_stale"), mark="!")
                result = prove(relay)
            if is_new:
                # Proven or not: one that crashed says why, and one that had to be started twice is none that works.
                take_step(deployment, "check")
                deploy.check_up(reached.engine, spec)
        except RemoteError:
            # What a failed try left on the host goes, volumes too; where that fails, the sweep or the visit does it.
            with suppress(RemoteError):
                deploy.remove_relay(reached.engine, settings.PANEL_ID, relay.pk, last_look)
            raise
    relays.record_probe(relay=relay, result=result)
    if not result.ok:
        raise ProbeFailed(code=result.cause, detail=result.detail)
    times = {"handshake": f"{result.handshake_ms:.1f}", "packet": f"{result.packet_ms:.1f}"}
    take_step(deployment, "done", problem=Problem("proven", values=times))
    if "files" in taken:
        rates.record_rate(relay=relay)
    relays.record_running(relay=relay, image=archive.tag, now=timezone.now())
    deployment.finish(JobRecord.Status.DONE)


def prove(relay: Relay, kept: KeptPort | None = None, *, has_just_started: bool = False) -> ProbeResult:
    """Carry a packet through a relay, with a few tries.

    `kept` is a port of ours that has asked its STUN since before it was made.
    """
    target = proving.proof_target(relay, timezone.now())
    listens_by = time.monotonic() + (_LISTENS_SECONDS if has_just_started else 0.0)
    tries = 0
    while True:
        result = run_probe(target, kept=kept)
        if result.ok:
            return result
        if result.cause in _NOT_LISTENING and time.monotonic() < listens_by:
            time.sleep(_LISTENS_PAUSE)
            continue
        tries += 1
        if tries == _PROBE_TRIES or result.cause == STALE:  # that took its time
            return result
        time.sleep(0.3 * tries)


def _remove(relay: Relay, deployment: Deployment) -> None:
    take_step(deployment, "connect", f"{relay.server.name} ({relay.server.ssh_address})")
    _check_rest(relay.server)
    try:
        with contact(relay.server) as reached:
            take_step(deployment, "remove")
            last_look = partial(read_counters, reached, relay.server)
            deploy.remove_relay(reached.engine, settings.PANEL_ID, relay.pk, last_look)
            gates.drop_gate(reached.engine, relay.server_id, but=relay.pk)
    except SameMachine:
        # Two rows for one machine, from before that was refused. What stands there of this row may go, so that it can be retired.
        with visit_as_guest(relay.server) as reached:
            if relay.pk not in deploy.read_standing(reached.engine, settings.PANEL_ID):
                raise
            take_step(deployment, "remove")
            last_look = partial(read_counters, reached, relay.server)
            deploy.remove_relay(reached.engine, settings.PANEL_ID, relay.pk, last_look)
    relays.record_released(relay=relay, now=timezone.now())
    deployment.finish(JobRecord.Status.DONE)


@queue.on_queue("slow")
def probe_relay(relay_pk: int) -> None:
    """Test a relay because somebody asked."""
    relay = Relay.objects.live().select_related("server").filter(pk=relay_pk).first()
    if relay is not None:
        target = proving.proof_target(relay, timezone.now())
        relays.record_probe(relay=relay, result=run_probe(target))
