"""Gates as rows: one for each server on which relays stand, and how current the list of known devices is that it has.

Every change is a conditional UPDATE. What stands on a host is compared at each visit, so a lost bell costs seconds.
"""

import secrets
from collections.abc import Iterable
from datetime import datetime
from functools import cache
from pathlib import Path

import certifi
from django.conf import settings
from django.db import transaction
from django.db.models import Exists, F, OuterRef, Q, QuerySet
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _
from django.utils.translation import gettext_noop

from accounts.models import User
from accounts.services import log_operation
from containers.gate import Entry, GateSpec, render_list
from containers.models import LIST_RETRY, RETRY, Gate, Relay
from containers.problems import ContainerStopped
from containers.services.images import NoGateImage, NoImage, NoImageForMachine
from derpmgmt.lib import queue
from derpmgmt.lib.crypto import keyed_hash
from derpmgmt.lib.problems import Problem, sentence_of
from fleet.models import Server
from fleet.services import clear_fault, record_fault

# A list that was refused so often in a row makes its server unhealthy.
LIST_FAULT, LIST_FAULT_AFTER = "list_not_taken", 3


def gate_of(server_pk: int) -> Gate:
    """The gate of a server, planned with a secret of its own if there is none yet."""
    secret = secrets.token_urlsafe(32)
    made = {"secret": secret, "secret_hash": keyed_hash("gate", secret)}
    gate, _new = Gate.objects.get_or_create(server_id=server_pk, defaults=made)
    return gate


def spec_of(gate: Gate, image: str) -> GateSpec:
    """The container that this gate should be."""
    return GateSpec(
        panel_id=settings.PANEL_ID,
        image=image,
        secret=gate.secret,
        panel_url=settings.RELAY_URL,
        ca_pem=settings.RELAY_CA or _public_authorities(),
    )


@cache
def _public_authorities() -> str:
    return Path(certifi.where()).read_text()


def read_list(server_pk: int) -> bytes:
    """The list of devices that may come in on a server while the panel is away, as its gate reads it."""
    entries: Iterable[Entry] = queue.ask("gate_list", server_pk)
    return render_list(entries)


def is_wanted(server_pk: int, *, but: int | None = None) -> bool:
    """Whether customers' relays, the relay `but` aside, stand or are to stand on a server, and with them its gate."""
    relays = _standing().filter(server_id=server_pk)
    return (relays if but is None else relays.exclude(pk=but)).exists()


def _standing() -> QuerySet[Relay]:
    return Relay.objects.live().filter(rental__isnull=False)


def note_list_changed(*, rental_pk: int, now: datetime) -> None:
    """Who may come in on a rental's relays is another now: the gates of their servers get new lists.

    Call it inside the transaction of the change. `list_changed_at` stays at the first change that a gate does not have yet.
    Announces `gate_list_outdated` (server pk) after commit.
    """
    servers = Relay.objects.live().filter(rental_id=rental_pk).values("server_id")
    _mark_changed(Gate.objects.filter(server__in=servers), now)
    for server_pk in Gate.objects.filter(server__in=servers).values_list("server_id", flat=True):
        queue.announce("gate_list_outdated", server_pk)


def note_drift(*, gate: Gate, now: datetime) -> None:
    """A visit found another list at the gate than it should have: it gets the right one."""
    with transaction.atomic():
        _mark_changed(Gate.objects.filter(pk=gate.pk), now)
        queue.announce("gate_list_outdated", gate.server_id)


def _mark_changed(gates: QuerySet[Gate], now: datetime) -> None:
    current = Q(list_changed_at=None) | Q(list_delivered_at__gte=F("list_changed_at"))
    gates.filter(current).update(list_changed_at=now)


def record_delivered(*, gate: Gate, list_hash: str, as_of: datetime) -> bool:
    """The host has the list as it was at `as_of`; False when a newer one was delivered and may have been overwritten."""
    older = Q(list_delivered_at=None) | Q(list_delivered_at__lte=as_of)
    delivered = Gate.objects.filter(older, pk=gate.pk).update(
        list_delivered_at=as_of, list_hash=list_hash, **LIST_RETRY.cleared
    )
    clear_fault(server_pk=gate.server_id, code=LIST_FAULT)
    return bool(delivered)


def record_list_failure(*, gate: Gate, now: datetime) -> None:
    """The host did not take the list: try again later, with growing pauses; the server says so after some in a row."""
    Gate.objects.filter(pk=gate.pk).update(**LIST_RETRY.failed(gate.list_failures, now))
    if gate.list_failures + 1 >= LIST_FAULT_AFTER:
        record_fault(
            server_pk=gate.server_id,
            code=LIST_FAULT,
            sentence=gettext_noop(
                "Its gate does not take the list of devices, so that changes do not count there while the panel is away."
            ),
        )


def record_running(*, gate: Gate, image: str, now: datetime) -> None:
    """The gate's container is as it should be. From its first run on, the server's relays ask it (`relays.spec_of`)."""
    Gate.objects.filter(pk=gate.pk).exclude(status=Gate.Status.RUNNING).update(running_since=now)
    Gate.objects.filter(pk=gate.pk).update(
        status=Gate.Status.RUNNING, image=image, failure_code="", **RETRY.cleared
    )


def record_failure(*, gate: Gate, problem: Problem, now: datetime) -> None:
    """The gate could not be made so: try again later, with growing pauses. Relays that ask it go on asking it."""
    Gate.objects.filter(pk=gate.pk).update(
        status=Gate.Status.FAILED, **RETRY.failed(gate.failures, now, problem.code)
    )


def record_removed(*, server_pk: int) -> None:
    """Nothing of the gate is left on its host: the next relay there waits for a new one. Its secret stays."""
    Gate.objects.filter(server=server_pk).update(
        status=Gate.Status.PLANNED,
        image="",
        failure_code="",
        running_since=None,
        list_changed_at=None,
        list_delivered_at=None,
        list_hash="",
        **RETRY.cleared,
        **LIST_RETRY.cleared,
    )
    clear_fault(server_pk=server_pk, code=LIST_FAULT)


def request_repair(*, gate: Gate) -> bool:
    """Have a gate that is said to run looked at and put right; False when it is being worked on anyway."""
    with transaction.atomic():
        moved = Gate.objects.filter(pk=gate.pk, status=Gate.Status.RUNNING).update(
            status=Gate.Status.PLANNED, try_after=None
        )
        if moved:
            queue.announce("gate_to_apply", gate.server_id)
    return bool(moved)


def retry_gate(*, gate: Gate, by: User | None) -> None:
    """Make the gate anew with the current image, now, and try its server too even if that is being rested.

    Nothing happens to one that runs and is as it should be.
    """
    with transaction.atomic():
        Gate.objects.filter(pk=gate.pk).update(
            status=Gate.Status.PLANNED, try_after=None, list_try_after=None, image=""
        )
        Server.objects.filter(pk=gate.server_id).update(next_contact_at=None)
        log_operation(by=by, action="gate.retried", target=gate.server)
        queue.announce("gate_to_apply", gate.server_id)


def wake_imageless() -> None:
    """There is an image now: gates and relays that failed for want of one are tried again at once."""
    codes = [NoImage.code, NoGateImage.code, NoImageForMachine.code]
    Gate.objects.filter(failure_code__in=codes).update(try_after=None)
    Relay.objects.live().filter(failure_code__in=codes).update(try_after=None)


def due_gates(now: datetime, limit: int = 200) -> list[int]:
    """Servers whose gate is missing or not as it should be, and nobody's turn to wait."""
    is_wrong = Q(gate__status__in=[Gate.Status.PLANNED, Gate.Status.FAILED])
    return list(
        Server.objects.managed()
        .due_for_contact(now)
        .filter(Exists(_standing().filter(server=OuterRef("pk"))))
        .filter(Q(gate=None) | is_wrong & RETRY.due(now, "gate__"))
        .values_list("pk", flat=True)[:limit]
    )


def with_relays(gates: QuerySet[Gate]) -> QuerySet[Gate]:
    """With `has_relays`: whether customers' relays stand or are to stand on the gate's server; else there need not be a gate."""
    return gates.annotate(has_relays=Exists(_standing().filter(server=OuterRef("server"))))


def late_lists(now: datetime, limit: int = 200) -> list[int]:
    """Servers that can be reached and whose gate does not have the newest list yet."""
    reachable = Server.objects.managed().due_for_contact(now)
    return list(
        late_gates()
        .filter(server__in=reachable, running_since__isnull=False)
        .filter(LIST_RETRY.due(now))
        .order_by("list_changed_at")
        .values_list("server_id", flat=True)[:limit]
    )


def late_gates() -> QuerySet[Gate]:
    """Gates whose list should be another one (`Gate.is_list_late` as a query)."""
    return Gate.objects.filter(list_changed_at__isnull=False).filter(
        Q(list_delivered_at=None) | Q(list_delivered_at__lt=F("list_changed_at"))
    )


def failure_text(gate: Gate) -> str | Promise:
    """Why the gate could not be made, as a sentence; for a code without one the code."""
    if gate.failure_code == ContainerStopped.code:
        return ContainerStopped.gate_sentence
    if gate.failure_code == NoImageForMachine.code:
        return _("The panel has no image of the gate for this kind of machine.")
    return sentence_of(gate.failure_code) or gate.failure_code
