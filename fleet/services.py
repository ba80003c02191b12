"""What is done to servers. Nothing here speaks to a server: that is `fleet.contact`."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from accounts.alerts.jobs import ring_for_alerts
from accounts.models import User
from accounts.services import log_operation
from derpmgmt.lib import queue
from derpmgmt.lib.lines import one_line
from derpmgmt.lib.prepared import Prepared
from derpmgmt.lib.problems import Problem
from derpmgmt.lib.refusals import Refusal
from derpmgmt.lib.sums import set_row
from fleet import outages
from fleet.facts import HostFacts, used_share
from fleet.identity import forget_machine
from fleet.machine import SameMachine
from fleet.models import (
    CONTACT,
    UNHEALTHY_AFTER,
    Region,
    Server,
    SshCredential,
    retired_name,
)
from fleet.readings import UNKNOWN, Rates
from fleet.ssh import HostKey, RemoteError

# The lease of a worker that died ends by itself after this time; a living one renews it while it works.
LEASE = timedelta(seconds=20)

# 20 s.
MOST_DOUBLINGS_CUT_OFF = 2

NO_REASON: dict[str, Any] = {"status_reason": "", "status_code": "", "status_values": {}}


def status_words(problem: Problem) -> dict[str, Any]:
    """The fields of a server's row that say why it is in its state."""
    return {
        "status_reason": problem.sentence,
        "status_code": problem.code[:32],
        "status_values": problem.values,
    }


class ServerNotEmpty(Refusal):
    """The server still holds relays."""

    code = "server_not_empty"
    sentence = _("The server still holds relays; it can be removed once they are gone.")


class WrongState(Refusal):
    """The server's state does not allow this."""

    code = "wrong_state"


@transaction.atomic
def save_credential(
    *, name: str, username: str, private_key: str = "", password: str = "", by: User | None
) -> SshCredential:
    """Store how to sign in at servers, or replace what is stored under `name`; both secrets are encrypted at rest."""
    credential, is_new = SshCredential.objects.update_or_create(
        name=name, defaults={"username": username, "private_key": private_key, "password": password}
    )
    log_operation(by=by, action="credential.created" if is_new else "credential.changed", target=name)
    return credential


def _one_at_a_time() -> None:
    """Whether ports are another server's is asked and written by one person at a time; ends with the transaction."""
    list(Region.objects.select_for_update().order_by("pk").values_list("pk", flat=True))


@transaction.atomic
def create_server(
    *, by: User | None, name: str, region: Region, address: str, credential: SshCredential, **fields: Any
) -> Server:
    """Register a server. It is not reached before its host key is confirmed, and not used before its checks passed.

    Raises `ValidationError` for addresses, names and port ranges that are wrong or taken.
    """
    _one_at_a_time()
    server = Server(name=name, region=region, address=address, credential=credential, **fields)
    server.full_clean()
    server.save()
    log_operation(by=by, action="server.created", target=server, address=address)
    return server


@transaction.atomic
def confirm_host_key(*, server: Server, line: str, by: User | None) -> None:
    """Pin the host key that a person confirmed (`ssh-ed25519 AAAA…`) and have the server checked.

    Raises `ValueError` when `line` is no host key.
    """
    key = HostKey.from_line(line)
    if key.line != server.host_key:
        forget_machine(server_pk=server.pk)
    Server.objects.filter(pk=server.pk).update(
        host_key=key.line, is_check_due=True, **CONTACT.cleared, **NO_REASON
    )
    server.refresh_from_db()
    log_operation(by=by, action="server.host_key_confirmed", target=server, fingerprint=key.fingerprint)
    queue.announce("server_to_check", server.pk)


@transaction.atomic
def update_server(*, server: Server, by: User | None, **changes: Any) -> None:
    """Change a server's fields. A new address means new certificates and maps: then `server_moved` is announced.

    Raises `ValidationError`.
    """
    _one_at_a_time()
    before = {name: str(getattr(server, name)) for name in changes}
    for name, value in changes.items():
        setattr(server, name, value)
    if before == {name: str(getattr(server, name)) for name in changes}:
        return
    server.full_clean()
    server.save(update_fields=list(changes))
    after = {name: str(getattr(server, name)) for name in changes}
    changed = {name: [before[name], after[name]] for name in changes if before[name] != after[name]}
    if not changed:
        return
    log_operation(by=by, action="server.changed", target=server, changes=changed)
    Server.objects.filter(pk=server.pk).update(next_contact_at=None)
    if changed.keys() & {"address", "ssh_host", "ssh_port", "docker_socket"}:
        forget_machine(server_pk=server.pk)
    if changed.keys() & {"address", "bind_address"}:
        queue.announce("server_moved", server.pk)
    if changed.keys() & {"traffic_limit_bytes", "traffic_reset_day"}:
        queue.announce("server_limits_changed", server.pk)
    if changed.keys() & {"capacity", "customer_limit"}:
        queue.announce("server_usable", server.pk)


def accept_server(*, server: Server, by: User | None = None) -> bool:
    """Put a server into use, after its checks; False when it has been retired meanwhile."""
    with transaction.atomic():
        accepted = Server.objects.filter(
            pk=server.pk, status__in=[Server.Status.NEW, Server.Status.UNHEALTHY, Server.Status.HEALTHY]
        ).update(
            status=Server.Status.HEALTHY,
            **NO_REASON,
            fault="",
            fault_since=None,
            **CONTACT.cleared,
        )
        if accepted:
            log_operation(by=by, action="server.accepted", target=server)
            queue.announce("server_usable", server.pk)
    return bool(accepted)


@transaction.atomic
def start_maintenance(*, server: Server, by: User | None, reason: str = "") -> None:
    """Place nothing new on the server; its relays keep running. Raises `WrongState`."""
    reason = one_line(reason)
    moved = Server.objects.filter(
        pk=server.pk, status__in=[Server.Status.HEALTHY, Server.Status.UNHEALTHY]
    ).update(status=Server.Status.MAINTENANCE, **(NO_REASON | {"status_reason": reason}))
    if not moved:
        raise WrongState(_("Only a server in use can be put into maintenance."))
    log_operation(by=by, action="server.maintenance_started", target=server, reason=reason)


@transaction.atomic
def end_maintenance(*, server: Server, by: User | None) -> None:
    """Take the server back into use. Raises `WrongState`."""
    if not _take_back(server, Server.Status.MAINTENANCE):
        raise WrongState(_("This server is not in maintenance."))
    log_operation(by=by, action="server.maintenance_ended", target=server)


def _take_back(server: Server, before: Server.Status) -> bool:
    """Into use again from the state `before`; whether it was in that. Announces `server_usable`."""
    moved = Server.objects.filter(pk=server.pk, status=before).update(
        status=Server.Status.HEALTHY, **NO_REASON, **CONTACT.cleared
    )
    if moved:
        queue.announce("server_usable", server.pk)
    return bool(moved)


@transaction.atomic
def start_draining(*, server: Server, by: User | None, reason: str = "") -> bool:
    """Have its relays made elsewhere, as far as there is room; nothing new is placed on it. False when that is so already.

    What moves them finds the server by its state. Raises `WrongState`.
    """
    reason = one_line(reason)
    in_use = [Server.Status.HEALTHY, Server.Status.UNHEALTHY, Server.Status.MAINTENANCE]
    moved = Server.objects.filter(pk=server.pk, status__in=in_use).update(
        status=Server.Status.DRAINING, **(NO_REASON | {"status_reason": reason})
    )
    if not moved and not Server.objects.filter(pk=server.pk, status=Server.Status.DRAINING).exists():
        raise WrongState(_("Only a server in use can be drained."))
    if moved:
        log_operation(by=by, action="server.draining_started", target=server, reason=reason)
    return bool(moved)


@transaction.atomic
def end_draining(*, server: Server, by: User | None) -> None:
    """Take the server back into use; relays that are on their way already go on. Raises `WrongState`."""
    if not _take_back(server, Server.Status.DRAINING):
        raise WrongState(_("This server is not being drained."))
    log_operation(by=by, action="server.draining_ended", target=server)


@transaction.atomic
def retire_server(*, server: Server, by: User | None) -> None:
    """Remove a server that holds no relay: its row stays for the history, under a name and address that are free again.

    Raises `ServerNotEmpty`.
    """
    locked = Server.objects.select_for_update().get(pk=server.pk)
    if locked.status == Server.Status.RETIRED:
        return
    if any(queue.ask("server_relays", server.pk)):
        raise ServerNotEmpty(_("The server still holds relays; it can be removed once they are gone."))
    name = locked.name
    locked.name = retired_name(name, locked.pk)
    locked.status = Server.Status.RETIRED
    locked.save(update_fields=["name", "status"])
    log_operation(by=by, action="server.retired", target=name, address=locked.address)


_WRONG = Prepared(
    lambda server: Server.objects.filter(
        Q(silent_since__isnull=False) | Q(status=Server.Status.UNHEALTHY) | Q(contact_failures__gt=0),
        pk=server,
    ).values("pk")
)


def record_contact(*, server_pk: int) -> None:
    """The server answered: it is no longer skipped, and one that was unhealthy for its silence is healthy again.

    It costs one write where all was well before, since that happens with each visit.
    """
    now = timezone.now()
    set_row(Server, {"id": server_pk}, {"last_contact_at": now})
    if not _WRONG.read(server=server_pk):
        return
    outages.end_outage(server_pk=server_pk, now=now)
    with transaction.atomic():
        recovered = Server.objects.filter(pk=server_pk, status=Server.Status.UNHEALTHY, fault="").update(
            status=Server.Status.HEALTHY, **NO_REASON, **CONTACT.cleared
        )
        if recovered:
            queue.announce("server_usable", server_pk)
    Server.objects.filter(pk=server_pk, contact_failures__gt=0).update(**CONTACT.cleared)


def record_failed_contact(*, server_pk: int, error: RemoteError) -> None:
    """The server did not answer: skip it for a while, twice as long each time (5 s to 5 min; 20 s while none does); unhealthy after two in a row."""
    now = timezone.now()
    server = Server.objects.get(pk=server_pk)
    # One whose machine is another's answers, so that trying costs nobody time.
    failures = 0 if isinstance(error, SameMachine) else server.contact_failures
    # While none answers it is the panel that may be cut off, and will want to know soon that it is no longer.
    patience = min(failures, MOST_DOUBLINGS_CUT_OFF) if outages.cut_off_since() else failures
    Server.objects.filter(pk=server_pk).update(**CONTACT.failed(patience, now))
    with transaction.atomic():
        if Server.objects.filter(pk=server_pk, silent_since=None).update(silent_since=now):
            queue.announce("server_silent", server_pk)
    if failures + 1 == UNHEALTHY_AFTER:
        ring_for_alerts()
    problem = Problem.of(error)
    # Nor does that pass by itself.
    enough = 1 if isinstance(error, SameMachine) else UNHEALTHY_AFTER
    Server.objects.filter(pk=server_pk, status=Server.Status.HEALTHY, contact_failures__gte=enough).update(
        status=Server.Status.UNHEALTHY, **status_words(problem)
    )


def record_fault(*, server_pk: int, code: str, sentence: str) -> None:
    """Something is wrong with a server though it answers: it is unhealthy until `clear_fault`. `sentence` is a msgid."""
    found = Server.objects.filter(pk=server_pk)
    found.filter(~Q(fault=code) | Q(fault_since=None)).update(fault=code, fault_since=timezone.now())
    Server.objects.filter(pk=server_pk, status__in=[Server.Status.HEALTHY, Server.Status.UNHEALTHY]).update(
        status=Server.Status.UNHEALTHY, **status_words(Problem(code, sentence))
    )


def clear_fault(*, server_pk: int, code: str) -> None:
    """What was wrong with a server is over: its next contact makes it healthy again."""
    Server.objects.filter(pk=server_pk, fault=code).update(fault="", fault_since=None)


@contextmanager
def lease(server_pk: int, holder: str) -> Iterator[bool]:
    """Hold the right to change a server; gives False when another worker holds it.

    The lease is a conditional UPDATE on the row and ends `LEASE` after it was last renewed, so it outlives nobody for long.
    """
    taken = renew_lease(server_pk=server_pk, holder=holder)
    try:
        yield taken
    finally:
        if taken:
            Server.objects.filter(pk=server_pk, busy_by=holder).update(busy_by="", busy_until=None)


def renew_lease(*, server_pk: int, holder: str) -> bool:
    """Take or keep the lease; False when somebody else has it."""
    now = timezone.now()
    free = Q(busy_until=None) | Q(busy_until__lt=now) | Q(busy_by=holder)
    return bool(Server.objects.filter(free, pk=server_pk).update(busy_by=holder, busy_until=now + LEASE))


def record_facts(
    *,
    server: Server,
    facts: HostFacts,
    reached_at: str,
    now: datetime,
    rates: Rates = UNKNOWN,
    docker_version: str = "",
) -> None:
    """Write a visit's figures of the machine to its row; `docker_version` is that of the Engine that answered it, if any did.

    What it sees of us is what its relays must see, where SSH took the way that their clients take: to the public address
    (`reached_at`). On another way, a private network's, it is one of our addresses that they may see. Where it sees us come from
    its own address we are on that machine, or something there stands between: that tells nothing.
    """
    is_public_way = reached_at == server.address
    is_private_way = bool(reached_at) and not is_public_way and facts.ssh_client not in ("", facts.ssh_server)
    set_row(
        Server,
        {"id": server.pk},
        {
            "load_ratio": facts.load1 / max(facts.cores, 1),
            "memory_bytes": facts.memory_total_bytes,
            "disk_free_bytes": facts.disk.free_bytes,
            "memory_share": used_share(facts.memory_total_bytes, facts.memory_available_bytes),
            "disk_share": facts.disk.used_share,
            "cpu_share": rates.cpu_share,
            "receive_rate": rates.receive_rate,
            "send_rate": rates.send_rate,
            "answer_ms": None if facts.answer_seconds is None else facts.answer_seconds * 1000,
            "clock_offset": facts.clock_offset,
            **({"docker_version": docker_version[:40]} if docker_version else {}),
            "panel_seen_as": (facts.ssh_client or None) if is_public_way else None,
            "panel_seen_privately_as": facts.ssh_client if is_private_way else None,
            "private_address": (facts.ssh_server or None) if is_private_way else None,
            "last_visit_at": now,
        },
    )
