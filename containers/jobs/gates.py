"""What RQ runs for gates, and what the jobs of relays and servers call: a server's gate stands before its first relay."""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial

from django.conf import settings
from django.utils import timezone

from containers import deploy, gate_list
from containers.deploy import Found, put_files, read_file
from containers.gate import GATE_DIR, LIST_HASH_PATH, gate_name, list_files, list_hash
from containers.jobs.claims import server_queue
from containers.models import LIST_RETRY, RETRY, Gate, Relay
from containers.services import gates, images, visits
from derpmgmt.lib import queue
from derpmgmt.lib.jobs import Heartbeat, worker_name
from derpmgmt.lib.problems import INTERNAL, Problem
from fleet import services as fleet_services
from fleet.contact import contact
from fleet.engine import Engine
from fleet.engine_errors import EngineError
from fleet.models import CONTACT, Server
from fleet.ssh import RemoteError

log = logging.getLogger(__name__)

# A new list is on its way for at most this long to a server that does not answer.
PUSH_SECONDS = 5.0
# So often a list is written when others write older ones over it, which takes two workers at the same moment.
_PUSH_TRIES = 3
# The steps of `deploy.make_so` after which something half-made may stand on the host.
_MAKING = {"volume", "create", "files", "start", "check"}


def gate_queue(server_pk: int) -> str:
    """The queue of the lists for a server's gate, where they wait for no other work on it."""
    return f"gate-{server_pk % settings.SHARDS}"


@queue.on_queue(server_queue)
def apply_gate(server_pk: int) -> None:
    """Make a server's gate match its spec, and its list what it should be."""
    server = Server.objects.managed().select_related("credential").filter(pk=server_pk).first()
    now = timezone.now()
    if server is None or CONTACT.rests(server, now):
        return
    with fleet_services.lease(server.pk, worker_name()) as is_ours:
        if not is_ours or not gates.is_wanted(server.pk):
            return  # whoever has it; the sweep rings again
        gate = gates.gate_of(server.pk)
        if gate.status == Gate.Status.RUNNING or RETRY.rests(gate, now):
            return
        renew = partial(fleet_services.renew_lease, server_pk=server.pk, holder=worker_name())
        try:
            with Heartbeat(renew), contact(server) as reached:
                _make_gate(reached.engine, gate)
        except RemoteError as error:
            _record_failure(gate, Problem.of(error))
        except Exception:
            log.exception("gate of %s", server.name)
            _record_failure(gate, Problem(INTERNAL))


def ensure_gate(engine: Engine, relay: Relay, on_step: Callable[[str], None]) -> None:
    """Have the gate stand before a relay that has never carried a packet is made. Raises RemoteError.

    A relay that did is repaired without: it asks its gate or nobody, as before, and the gate has its own tries. Call it
    under the server's lease.
    """
    if relay.proven_at is not None:
        return
    gate = gates.gate_of(relay.server_id)
    if gate.status == Gate.Status.RUNNING:
        if list_hash(gates.read_list(relay.server_id)) != gate.list_hash:
            gates.note_drift(gate=gate, now=timezone.now())  # it does not know the new relay
        return
    try:
        _make_gate(engine, gate, on_step)
    except RemoteError as error:
        _record_failure(gate, Problem.of(error))
        raise


def try_list(engine: Engine, server_pk: int) -> None:
    """Bring a server's running gate its list once, as each change of it does later. Raises RemoteError."""
    _deliver(engine, gates.gate_of(server_pk))


def drop_gate(engine: Engine, server_pk: int, *, but: int | None = None) -> None:
    """Remove a server's gate when no customer's relay is left there, the relay `but` aside. Raises RemoteError.

    Nor is it removed where relays of other servers stand, since they may ask it. Call it under the server's lease.
    """
    if gates.is_wanted(server_pk, but=but):
        return
    if visits.check_owner(server_pk, deploy.read_standing(engine, settings.PANEL_ID)):
        deploy.remove_gate(engine, settings.PANEL_ID)
        gates.record_removed(server_pk=server_pk)


@queue.on_queue(gate_queue)
def push_list(server_pk: int) -> None:
    """Bring a server's gate the list of devices as it is now. Takes no lease: the order of two at once does not matter."""
    gate = Gate.objects.select_related("server__credential").filter(server=server_pk).first()
    if gate is None or gate.running_since is None or gate.server.status in _UNMANAGED:
        return  # it comes with its list
    if CONTACT.rests(gate.server, timezone.now()):
        return  # a visit or the sweep brings it, once the server answers
    if LIST_RETRY.rests(gate, timezone.now()):
        return  # the host refused it lately; the sweep rings again
    if not gate.is_list_late and list_hash(gates.read_list(server_pk)) == gate.list_hash:
        return  # rung for twice
    is_reached = False
    try:
        with contact(gate.server, ssh_seconds=PUSH_SECONDS, engine_seconds=PUSH_SECONDS) as reached:
            is_reached = True
            _deliver(reached.engine, gate)
    except EngineError as error:
        log.warning("list for the gate of %s: %s %s", gate.server.name, error.code, error.detail)
        if error.code in {"not_found", "conflict"}:  # it does not stand, or does not run
            gates.request_repair(gate=gate)
        if is_reached:
            gates.record_list_failure(gate=gate, now=timezone.now())
    except RemoteError as error:
        log.warning("list for the gate of %s: %s %s", gate.server.name, error.code, error.detail)
        if is_reached:  # a server that does not answer is rested as such, and the list comes once it does
            gates.record_list_failure(gate=gate, now=timezone.now())
    except Exception:
        log.exception("list for the gate of %s", gate.server.name)
        gates.record_list_failure(gate=gate, now=timezone.now())


def look_at_gate(engine: Engine, server_pk: int, found: Sequence[Found], *, may_go: bool = True) -> None:
    """The part of a visit that compares the gate with what it should be, and rings for what differs. Raises RemoteError.

    `found` are the containers that the Engine's list shows as the panel's gate;
    `may_go`: whether one that the server's own relays do not need is to be removed.
    """
    gate = Gate.objects.filter(server=server_pk).first()
    if not gates.is_wanted(server_pk):
        if may_go and (found or deploy.has_gate(engine, settings.PANEL_ID)):
            queue.announce("orphans_found", server_pk)
        return
    if gate is None or gate.status != Gate.Status.RUNNING:
        return  # the sweep rings for it
    if not _is_right(engine, gate, found):
        log.warning("visit: the gate of server %s is to be repaired", server_pk)
        gates.request_repair(gate=gate)
        return
    has = read_file(engine, gate_name(settings.PANEL_ID), LIST_HASH_PATH).decode(errors="replace")
    # The row too: a push that was killed between the file and the signal has not written it.
    if {has, gate.list_hash} != {list_hash(gates.read_list(server_pk))}:
        gates.note_drift(gate=gate, now=timezone.now())


def ring_gates(now: datetime) -> None:
    """The part of the sweep that finds gates and lists that something is to be done about."""
    for server_pk in gates.due_gates(now):
        queue.enqueue(apply_gate, server_pk, is_again=True)
    for server_pk in gates.late_lists(now):
        queue.enqueue(push_list, server_pk, is_again=True)


_UNMANAGED = {Server.Status.NEW, Server.Status.RETIRED}


def _make_gate(engine: Engine, gate: Gate, on_step: Callable[[str], None] = lambda _step: None) -> None:
    """Make the gate so, list and all, and write down that it runs. Raises RemoteError."""
    taken: set[str] = set()

    def note(step: str) -> None:
        taken.add(step)
        on_step(step)

    archive = images.find_gate_image(gate.image, engine.architecture)
    spec = gates.spec_of(gate, archive.tag)
    as_of = timezone.now()
    content = gates.read_list(gate.server_id)
    try:
        deploy.make_so(engine, spec, archive, note, also=list_files(content))
    except RemoteError:
        if taken & _MAKING:
            with suppress(RemoteError):
                deploy.remove_gate(engine, settings.PANEL_ID)
        raise
    is_delivered = "files" in taken and gates.record_delivered(
        gate=gate, list_hash=list_hash(content), as_of=as_of
    )
    if not is_delivered:
        _deliver(engine, gate)
    gates.record_running(gate=gate, image=archive.tag, now=timezone.now())


def _record_failure(gate: Gate, problem: Problem) -> None:
    log.warning("gate of server %s: %s %s", gate.server_id, problem.code, problem.detail)
    gates.record_failure(gate=gate, problem=problem, now=timezone.now())


def _deliver(engine: Engine, gate: Gate) -> None:
    """Write the list as it is now into the running gate and have nginx read it. Raises RemoteError."""
    name = gate_name(settings.PANEL_ID)
    for _try in range(_PUSH_TRIES):
        as_of = timezone.now()
        content = gates.read_list(gate.server_id)
        put_files(engine, name, GATE_DIR, list_files(content))
        gate_list.activate_list(engine, settings.PANEL_ID)
        if gates.record_delivered(gate=gate, list_hash=list_hash(content), as_of=as_of):
            return


def _is_right(engine: Engine, gate: Gate, found: Sequence[Found]) -> bool:
    if [item.state for item in found] != ["running"]:
        return False
    try:
        return not deploy.read_differences(engine, gates.spec_of(gate, gate.image))
    except EngineError as error:
        if error.code != "not_found":
            raise
        return False
