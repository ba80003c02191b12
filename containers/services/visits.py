"""What a visit found on a server, compared with the rows."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from containers.deploy import Found
from containers.models import Relay
from containers.services.relay_requests import request_repair
from containers.services.relays import spec_of
from containers.spec import KIND_RELAY, RelaySpec
from derpmgmt.lib import queue
from derpmgmt.lib.kept import Kept
from derpmgmt.lib.prepared import Prepared
from fleet.machine import SameMachine
from fleet.models import Server

# By all that a spec is made of and that may change; it does not fit where one panel has more relays than this.
_HASHES: Kept[str] = Kept(20_000)


# A server's live relays, with all that their specs are made of and that may change.
_ROWS = Prepared(
    lambda server: (
        Relay.objects.live()
        .filter(server=server)
        .order_by()
        .values(
            "pk",
            "status",
            "changed_at",
            "image",
            "certificate_sha256",
            "public_key",
            "server__address",
            "server__bind_address",
            "server__is_fail_open",
            "server__gate__running_since",
        )
    )
)

# By how many of them there are.
_RUNNING = Prepared(
    lambda _number, **pks: (
        Relay.objects.filter(pk__in=pks.values(), status=Relay.Status.RUNNING)
        .order_by()
        .select_related("server__gate")
    )
)


@dataclass(frozen=True)
class Wanted:
    """What should stand on a server by its rows: all live relays there, and those that are said to run with the hashes of their specs."""

    live: Collection[int]
    running: Mapping[int, str]


def read_wanted(server_pk: int) -> Wanted:
    """What should stand on a server; two queries at most. Read it after what does: rows are written before containers.

    A relay's secrets are read, and its spec is made, only where something about it is another than at the last visit.
    """
    rows = {row["pk"]: row for row in _ROWS.read(server=server_pk)}
    keys = {pk: tuple(row.values()) for pk, row in rows.items() if row["status"] == Relay.Status.RUNNING}
    hashes = {pk: found for pk, key in keys.items() if (found := _HASHES.find(key)) is not None}
    for relay, spec in specs_of(keys.keys() - hashes.keys()):
        hashes[relay.pk] = _HASHES.keep(keys[relay.pk], spec.spec_hash)
    return Wanted(rows.keys(), hashes)


def record_containers(
    *,
    server: Server,
    wanted: Wanted,
    found: Iterable[Found],
    volumes: Collection[int],
    changed: Collection[int],
) -> tuple[list[int], list[int]]:
    """Compare what stands on a server with what should; gives the relays to repair and the orphans (relay ids).

    `changed` are the relays whose container differs from its spec. Repairs are rung for here; an orphan is what has no live
    row on any server: the list was read before the rows, and rows are written before containers, so it is nobody's work in
    progress.
    """
    present = {item.relay_id: item for item in found if item.kind == KIND_RELAY}
    repaired = []
    for pk in wanted.running:
        item = present.get(pk)
        is_right = item is not None and item.state == "running" and item.is_wired and pk not in changed
        if not is_right and request_repair(relay_pk=pk):
            repaired.append(pk)
    unknown = (set(present) | set(volumes)).difference(wanted.live)
    orphans = sorted(unknown - owned(unknown))
    if orphans:
        queue.announce("orphans_found", server.pk)
    return repaired, orphans


def owned(standing: Collection[int]) -> set[int]:
    """Which of these relays are somebody's: they have a live row, on whatever server. What is owned is never an orphan."""
    return (
        set(Relay.objects.live().filter(pk__in=standing).values_list("pk", flat=True)) if standing else set()
    )


def strangers(server_pk: int, standing: Collection[int]) -> list[Relay]:
    """Which of the relays that stand on a server belong to other servers in use, by their rows."""
    others = Relay.objects.live().filter(pk__in=standing).exclude(server=server_pk)
    return list(others.select_related("server").order_by("server__name", "pk"))


def check_owner(server_pk: int, standing: Collection[int]) -> bool:
    """Whether a server holds nothing of other servers' relays.

    Raises `SameMachine` when it holds relays of one whose machine nobody has read: it may be just this machine. Where the
    machines are known to be two, one is a copy of the other, and what came along with it is left alone.
    """
    foreign = strangers(server_pk, standing) if standing else []
    for relay in foreign:
        if relay.server.boot_id is None:
            raise SameMachine(server=relay.server.name)
    return not foreign


def specs_of(relay_pks: Collection[int]) -> list[tuple[Relay, RelaySpec]]:
    """These relays, as far as they are said to run, with the containers that they should be; one query at most."""
    if not relay_pks:
        return []
    pks = {f"pk_{at}": pk for at, pk in enumerate(relay_pks)}
    return [(relay, spec_of(relay, relay.image)) for relay in _RUNNING.read(len(pks), **pks)]
