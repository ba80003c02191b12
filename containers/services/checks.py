"""The checks that a server passes before it is used, as rows."""

from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import Exists, OuterRef

from accounts.models import User
from accounts.services import log_operation
from containers import placement
from containers.models import Relay, ServerCheck
from containers.services.relays import new_relay
from derpmgmt.lib import queue
from derpmgmt.lib.jobs import JobRecord
from derpmgmt.lib.problems import Problem, explain, translate
from fleet.models import Server


@dataclass(frozen=True)
class Finding:
    """What one check found: `sentence` and `remedy` are English msgids that pages translate, `values` what is filled in.

    What a server's error tells has a `code`, and no sentence where that says it. `rules` are lines for the provider's security group, ready to copy.
    """

    step: str
    is_ok: bool
    sentence: str
    values: dict[str, str] = field(default_factory=dict)
    remedy: str = ""
    rules: list[str] = field(default_factory=list)
    detail: str = ""
    code: str = ""

    @classmethod
    def of(cls, step: str, problem: Problem) -> "Finding":
        """A step that ended in an error of the server's."""
        return cls(step, False, problem.sentence, problem.values, detail=problem.detail, code=problem.code)

    @property
    def problem(self) -> Problem:
        """What it says, in the form of a problem."""
        return Problem(self.code or self.step, self.sentence, self.values, self.detail)


def request_check(*, server_pk: int, by: User | None = None) -> ServerCheck:
    """Have a server checked; one check at a time, so a second request gives the one that is open.

    That one may have read another host key: a server whose key was confirmed meanwhile stays due.
    """
    try:
        with transaction.atomic():
            check = ServerCheck.objects.create(server_id=server_pk)
            Server.objects.filter(pk=server_pk, is_check_due=True).update(is_check_due=False)
            log_operation(by=by, action="server.check_requested", target=check.server)
            queue.announce("check_requested", server_pk)
        return check
    except IntegrityError:
        return ServerCheck.objects.open().get(server_id=server_pk)


def add_finding(*, check: ServerCheck, finding: Finding) -> None:
    """Append a finding to a check and its log."""
    check.findings = [*check.findings, asdict(finding)]
    ServerCheck.objects.filter(pk=check.pk).update(findings=check.findings)
    check.write(step=finding.step, problem=finding.problem, mark="✓" if finding.is_ok else "✗")


def read_findings(check: ServerCheck) -> list[dict[str, Any]]:
    """A check's findings with their texts in the active language."""
    return [
        {
            **finding,
            "text": explain(finding.get("code", ""), finding["values"], finding["sentence"]),
            "remedy": translate(finding["remedy"], finding["values"]),
        }
        for finding in check.findings
    ]


def make_throwaways(*, server: Server, now: datetime) -> list[Relay]:
    """Rows for the relays that prove a server: one on the lowest and one on the highest free ports of its ranges.

    An earlier check's left-over rows go first. The list is empty when a range has no free port.
    """
    Relay.objects.filter(server=server, rental=None).delete()
    ports = Relay.objects.live().filter(server=server).values_list("derp_port", "stun_port")
    derp_taken, stun_taken = {pair[0] for pair in ports}, {pair[1] for pair in ports}
    made: list[Relay] = []
    tcp = range(server.tcp_port_first, server.tcp_port_last + 1)
    udp = range(server.udp_port_first, server.udp_port_last + 1)
    for step in (1, -1):
        derp = placement.choose_port(tcp[::step], derp_taken)
        stun = placement.choose_port(udp[::step], stun_taken)
        if derp is None or stun is None:
            break
        derp_taken.add(derp)
        stun_taken.add(stun)
        relay = new_relay(server=server, derp_port=derp, stun_port=stun, now=now)
        relay.save()
        made.append(relay)
    return made


def move_throwaway(*, relay: Relay, taken: Collection[int]) -> bool:
    """Give a throw-away relay other ports, as far as these are among the taken ones; False when none are left.

    `taken` are ports that programs of others have on the server: the relay's own ones among them are left.
    """
    server = relay.server
    others = Relay.objects.live().filter(server=server).exclude(pk=relay.pk)
    for name, first, last in (
        ("derp_port", server.tcp_port_first, server.tcp_port_last),
        ("stun_port", server.udp_port_first, server.udp_port_last),
    ):
        port = getattr(relay, name)
        if port not in taken:
            continue
        ports = range(first, last + 1)
        is_low = port - first <= last - port
        free = placement.choose_port(
            ports if is_low else ports[::-1], {*taken, *others.values_list(name, flat=True)}
        )
        if free is None:
            return False
        setattr(relay, name, free)
    relay.save(update_fields=["derp_port", "stun_port"])
    return True


def drop_throwaways(*, server: Server) -> None:
    """Forget the relays that proved a server; what they left on the host is then nobody's and goes."""
    Relay.objects.filter(server=server, rental=None).delete()


def end_lost_checks(now: datetime) -> None:
    """Close the checks whose worker died and ask for each anew: it also cleans up what the dead one left."""
    for check in ServerCheck.objects.lost(now):
        ended = ServerCheck.objects.filter(pk=check.pk, status=JobRecord.Status.RUNNING).update(
            status=JobRecord.Status.LOST, finished_at=now
        )
        if ended:
            request_check(server_pk=check.server_id)


def unchecked_servers() -> list[int]:
    """Servers whose host key was confirmed and that nobody has checked since."""
    due = Server.objects.filter(is_check_due=True).exclude(status=Server.Status.RETIRED)
    has_open = Exists(ServerCheck.objects.open().filter(server=OuterRef("pk")))
    return list(due.exclude(has_open).values_list("pk", flat=True)[:100])


def due_checks(now: datetime) -> list[int]:
    """Servers whose check waits to be taken up."""
    return list(
        ServerCheck.objects.filter(status=JobRecord.Status.QUEUED).values_list("server_id", flat=True)[:100]
    )
