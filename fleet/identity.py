"""Which row has which machine. A row takes its machine at the first contact, and no other row in use can have it then."""

from django.db import IntegrityError, transaction
from django.db.models import Q

from fleet.machine import Machine, SameMachine
from fleet.models import Server

_FORGOTTEN = {"engine_id": None, "engine_root": "", "host_fingerprint": None, "boot_id": None}


def has_machine(server: Server, machine: Machine) -> bool:
    """Whether this row has just this machine, by what it says itself."""
    return _values(machine) == {name: getattr(server, name) for name in _FORGOTTEN}


def rivals_of(server: Server, machine: Machine) -> list[Server]:
    """The other rows in use whose machine this may be: the same Engine or host key, or nothing known but the same pinned key.

    A row that was never checked has nothing on a machine yet: of two, the one that takes it first gets it. Of two in use that
    nobody has read, the older one has it.
    """
    is_alike = Q(engine_id=machine.engine_id, engine_root=machine.engine_root) | Q(
        host_fingerprint=machine.fingerprint
    )
    is_unread = Q(host_fingerprint=None, host_key=server.host_key) & ~Q(status=Server.Status.NEW)
    if server.status != Server.Status.NEW:
        is_unread &= Q(pk__lt=server.pk)
    return list(
        Server.objects.exclude(pk=server.pk)
        .exclude(status=Server.Status.RETIRED)
        .filter(is_alike | is_unread)
        .select_related("credential")
        .order_by("pk")
    )


def were_told_apart(server: Server, machine: Machine, rival: Server) -> bool:
    """Whether this is known not to be the rival's machine, though that does not answer.

    It is when the rival's answered with another boot id after this one had started, when the rows were told apart before (they had
    different machines, and this is the row's own, started anew), or when the Engines differ and only the host key, which clones
    share, is the same.
    """
    if rival.boot_id is None:
        return False
    if rival.last_contact_at is not None and rival.last_contact_at > machine.up_since:
        return True
    if server.boot_id is not None and machine.engine_id == server.engine_id:
        return True
    return (rival.engine_id, rival.engine_root) != (machine.engine_id, machine.engine_root)


def take_machine(*, server: Server, machine: Machine) -> None:
    """Write down that this row has this machine. Raises `SameMachine` when another row took it first: the database decides."""
    try:
        with transaction.atomic():
            Server.objects.filter(pk=server.pk).update(**_values(machine))
    except IntegrityError:
        others = Server.objects.exclude(pk=server.pk).exclude(status=Server.Status.RETIRED)
        other = others.filter(boot_id=machine.boot_id).filter(
            Q(engine_id=machine.engine_id, engine_root=machine.engine_root)
            | Q(host_fingerprint=machine.fingerprint)
        )
        raise SameMachine(server=other.values_list("name", flat=True).first() or "?") from None


def forget_machine(*, server_pk: int) -> None:
    """The row leads elsewhere from now on: its next contact takes the machine that is there."""
    Server.objects.filter(pk=server_pk).update(**_FORGOTTEN)


def _values(machine: Machine) -> dict[str, str | None]:
    return {
        "engine_id": machine.engine_id,
        "engine_root": machine.engine_root,
        "host_fingerprint": machine.fingerprint,
        "boot_id": machine.boot_id,
    }
