"""How relays are proven: what a test compares with, and what came of it."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import Exists, F, Min, OuterRef, Q, QuerySet
from django.urls import reverse
from django.utils import translation
from django.utils.translation import gettext_lazy

from accounts.services import notify
from accounts.sweeps import sweep
from accounts.works import Work, declare
from containers.derp import source
from containers.derp.probe import ProbeTarget
from containers.models import Relay, RelayHealth
from containers.proof_times import failing_key
from containers.services.relays import target_of
from derpmgmt.lib.prepared import Prepared
from fleet import outages
from fleet.models import Server

# What a server saw of us is compared with for so long; with a longer one every address of ours is known that others saw.
SEEN_FOR = timedelta(minutes=10)
KNOWN_FOR = timedelta(days=1)
# So many relays on other servers are asked in doubt.
WITNESSES = 3
# Whoever took a relay to prove it and died has lost it after this time.
CLAIM = timedelta(minutes=1)
# What passed is kept a day longer than it is drawn, what failed for a month.
KEEP_PASSED = timedelta(days=2)
KEEP_FAILED = timedelta(days=30)
PRUNE_AT_ONCE = 5_000
# A test shows the mesh key; what else is secret is not decrypted for one.
_NOT_TOLD = tuple(name for name in Relay.SECRETS if name != "mesh_key")
AT_ONCE = 200
_LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


def proof_targets(relays: Sequence[Relay], now: datetime) -> list[ProbeTarget]:
    """How to prove these relays, with what their servers and others see of us; two queries however many they are."""
    pks = {relay.server_id for relay in relays}
    seen = {
        server.pk: server
        for server in Server.objects.filter(
            Q(panel_seen_as__isnull=False) | Q(panel_seen_privately_as__isnull=False),
            last_visit_at__gt=now - KNOWN_FOR,
        )
    }
    ours = {address for row in seen.values() if (address := row.panel_seen_as) and source.is_public(address)}
    # One of each of the servers visited last; one more than are asked, in case it is the relay's own.
    latest = sorted(seen.values(), key=lambda row: row.last_visit_at, reverse=True)[
        : len(pks) + WITNESSES + 1
    ]
    witnesses = list(
        Relay.objects.filter(server__in=latest, status=Relay.Status.RUNNING, last_health__is_ok=True)
        .values("server_id", "server__address")
        .annotate(port=Min("stun_port"))
        .order_by("server_id")
    )
    targets = []
    for relay in relays:
        target = target_of(relay)
        server = seen.get(relay.server_id)
        if server is not None and server.address == target.host:
            if _is_beside(server):
                targets.append(replace(target, judges_source=False))
                continue
            # What this server saw of us may be private, where both are in one network.
            own = {address for address in (server.panel_seen_as, server.panel_seen_privately_as) if address}
            target = replace(target, also_seen=tuple(sorted(ours | own)))
            if server.panel_seen_as and server.last_visit_at > now - SEEN_FOR:
                others = [row for row in witnesses if row["server__address"] != target.host]
                target = replace(
                    target,
                    expect_source=server.panel_seen_as,
                    witnesses=tuple((row["server__address"], row["port"]) for row in others[:WITNESSES]),
                )
        targets.append(target)
    return targets


def _is_beside(server: Server) -> bool:
    if server.panel_seen_as:
        return source.is_beside(seen=server.panel_seen_as, host=server.address)
    if server.panel_seen_privately_as and (at := server.private_address):
        return source.is_beside(seen=server.panel_seen_privately_as, host=server.address, at=at)
    return False


def proof_target(relay: Relay, now: datetime) -> ProbeTarget:
    """How to prove one relay."""
    return proof_targets([relay], now)[0]


_DUE = Prepared(
    lambda limit, now: (
        Relay.objects.to_prove()
        .filter(prove_after__lte=now)
        .order_by("prove_after", "pk")
        .select_related("server")
        .defer(*_NOT_TOLD)[:limit]
    )
)


def claim_due(now: datetime, limit: int) -> list[Relay]:
    """Take up to `limit` relays whose scheduled test is due, the longest waiting first; nobody else gets them for a minute."""
    claimed = []
    for relay in _DUE.read(limit, now=now):
        taken = Relay.objects.filter(pk=relay.pk, prove_after=relay.prove_after)
        if taken.update(prove_after=now + CLAIM, changed_at=F("changed_at")):
            claimed.append(relay)
    return claimed


def prove_soon(*, server_pk: int, now: datetime) -> None:
    """Have the relays of a server proven now, since it stopped answering or answers again."""
    Relay.objects.to_prove().filter(server_id=server_pk, prove_after__gt=now).update(
        prove_after=now, changed_at=F("changed_at")
    )


def reaches_nothing() -> bool:
    """Whether no server answers and no relay carries a packet, so that the panel itself may be cut off."""
    since = outages.cut_off_since()
    if since is None:
        return False
    carried = Relay.objects.to_prove().filter(last_health__is_ok=True, last_health__at__gt=since)
    return not carried.exists()


def sweep_failing(now: datetime) -> None:
    """Tell customers of relays that have carried no packets for long, once each time; not of announced maintenance.

    What the panel could not see says nothing of relays: while it reaches nothing nobody is told, and after that their tests
    count anew, for as long as it is waited otherwise.
    """
    sweep(TELLING, now=now)


def _to_tell(now: datetime) -> QuerySet[Relay]:
    patience = timedelta(minutes=settings.OUTAGE_NOTICE_MINUTES)
    seeing = outages.sees_again_since()
    if (seeing is not None and now - seeing < patience) or reaches_nothing():
        return Relay.objects.none()
    return (
        Relay.objects.to_prove()
        .wanted()
        .filter(failing_since__lte=now - patience, failing_told_at=None)
        .exclude(server__status=Server.Status.MAINTENANCE)
        .exclude(last_health__at__lte=seeing or _LONG_AGO)
        .order_by("failing_since")
    )


def _tell(pks: Sequence[int], now: datetime) -> int:
    relays = Relay.objects.filter(pk__in=pks, failing_since__isnull=False, rental__isnull=False)
    rows = relays.select_related("server__region", "rental__user").defer(*_NOT_TOLD)
    return sum(_tell_failing(relay, now) for relay in rows)


TELLING = declare(
    Work(
        name="telling of silent relays",
        title=gettext_lazy("Telling of relays that carry nothing"),
        model=Relay,
        whose="rental__user__email",
        due=_to_tell,
        do=_tell,
        limit=AT_ONCE,
    )
)


@transaction.atomic
def _tell_failing(relay: Relay, now: datetime) -> bool:
    assert relay.rental is not None
    assert relay.failing_since is not None
    still = Relay.objects.filter(pk=relay.pk, failing_since=relay.failing_since, failing_told_at=None)
    if not still.update(failing_told_at=now, changed_at=F("changed_at")) or not relay.rental.is_entitled(now):
        return False
    with translation.override(relay.rental.user.language):
        region = relay.server.region.name
    others = relay.rental.relays.wanted().carrying().exclude(pk=relay.pk).count()
    told = notify(
        user=relay.rental.user,
        kind="relay_silent",
        key=failing_key(relay.pk, relay.failing_since),
        context={
            "region": region,
            "slot": relay.slot,
            "address": f"{relay.server.address}:{relay.derp_port}",
            "failing_at": relay.failing_since,
            "others": others,
            "url": settings.PUBLIC_URL + reverse("home"),
        },
    )
    return bool(told)


def prune_health(now: datetime) -> int:
    """Delete old results, but never a relay's last one; gives how many went."""
    is_last = Exists(Relay.objects.filter(last_health=OuterRef("pk")))
    gone = 0
    for is_ok, keep in ((True, KEEP_PASSED), (False, KEEP_FAILED)):
        old = RelayHealth.objects.filter(~is_last, at__lt=now - keep, is_ok=is_ok)
        while pks := list(old.order_by("at").values_list("pk", flat=True)[:PRUNE_AT_ONCE]):
            # Past Django's collector, which would look for each row in `last_health`: none of these stands there.
            gone += RelayHealth.objects.filter(pk__in=pks)._raw_delete(using="default")
    return gone
