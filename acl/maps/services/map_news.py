"""What customers are told about new versions of their map: what changed, and whether anything must be pasted again.

What a customer has pasted is known only as far as they took it from the panel. Whoever got it otherwise (from the operator, by a
browser that reported nothing) took no version: they are told which version is the newest that lacks something.

A mail goes out only where something is to be pasted: not for a version that leads to the same relays as before, nor to who has a program
that follows their live URL, nor for relays that only went, since what was pasted leads to all the others. A place whose
relay changed has to be pasted before the old relay goes: whoever has not, and is known to, is told again the day before.
"""

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Max, Min, QuerySet, Sum
from django.urls import reverse

from accounts.services import notify
from acl.maps.derpmap import Change, compare_maps
from acl.maps.models import AclConfig, AclEvent, LiveUrl
from acl.maps.services.downloads import PARTIAL
from containers.models import Relay
from containers.services.rotation import retired_until

# Relays often change one after another: what the customer is told is what came of it, once it has been quiet for so long.
SETTLES = timedelta(minutes=2)
# A live URL that was not fetched within this time is not the way by which the customer gets their map.
LIVE_WITHIN = timedelta(days=2)
# A program follows a live URL when it fetched it so often in the last week, and over so long a time.
_FOLLOWS_TIMES, _FOLLOWS_OVER, _FOLLOWS_LATELY = 3, timedelta(hours=1), timedelta(days=7)
# Whoever has not pasted a change is told again so long before the old relays go.
_REMINDS_BEFORE = timedelta(days=1)
# Whoever took none may have pasted any of so many versions before.
_OLD_VERSIONS = 20


def _is_needed(changes: tuple[Change, ...]) -> bool:
    """Whether a map before these changes lacks something; relays that only went are missed by nobody."""
    return any(change.kind != "removed" for change in changes)


@dataclass(frozen=True)
class PasteNote:
    """Whether the customer must paste again.

    `taken` is the version that they took last, None = none that the panel knows of. `changes` is what leads elsewhere in the present
    one than in version `since`: `taken`, or, when they took none, the newest one from which something needed is missing.
    `is_live` says that a program follows their live URL, `may_be_live` that it was fetched lately, but not in such a way. Relays that
    have successors stay until `old_until` at the latest; None when there are none, or they have the successors already.
    """

    taken: int | None = None
    since: int | None = None
    changes: tuple[Change, ...] = ()
    is_live: bool = False
    may_be_live: bool = False
    old_until: datetime | None = None

    @property
    def must_paste(self) -> bool:
        """The version that they took lacks something."""
        return self.taken is not None and _is_needed(self.changes) and not self.is_live

    @property
    def may_paste(self) -> bool:
        """They took none, but if they have pasted version `since` or an older one, that lacks something."""
        return self.taken is None and _is_needed(self.changes) and not self.is_live

    @property
    def has_leftovers(self) -> bool:
        """The version that they took has all that there is, and something that is gone."""
        return self.taken is not None and bool(self.changes) and not _is_needed(self.changes)


def _is_fetched(url: LiveUrl | None, now: datetime) -> bool:
    return bool(url and url.last_fetched_at and now - url.last_fetched_at < LIVE_WITHIN)


def is_live(url: LiveUrl | None, now: datetime) -> bool:
    """Whether a program follows the live URL, so that the customer's map gets to them by itself; one query at most.

    One does that fetched it three times or more within the last week, over an hour or longer, and is no browser (a browser's name
    begins with "Mozilla/"), while the last fetch is not two days old. A look at it, or a few tries by hand, are none of this.
    """
    if url is None or not _is_fetched(url, now):
        return False
    fetches = AclEvent.objects.filter(
        rental=url.rental_id,
        kind=AclEvent.Kind.FETCHED,
        at__gte=url.created_at,
        last_at__gt=now - _FOLLOWS_LATELY,
    ).exclude(browser="")
    programs = (
        fetches.exclude(browser__startswith="Mozilla/")
        .values("browser")
        .annotate(first_at=Min("at"), latest_at=Max("last_at"), times=Sum("count"))
    )
    return any(
        program["times"] >= _FOLLOWS_TIMES
        and program["latest_at"] - program["first_at"] >= _FOLLOWS_OVER
        and now - program["latest_at"] < LIVE_WITHIN
        for program in programs
    )


def taken_versions(*, rental_pk: int, owner_pk: int) -> QuerySet[AclEvent, Any]:
    """The versions that the rental's customer took themselves as a whole, the last first."""
    taken = AclEvent.objects.filter(
        rental=rental_pk, kind=AclEvent.Kind.DOWNLOADED, by=owner_pk, version__isnull=False
    )
    return taken.exclude(reason=PARTIAL).order_by("-pk").values_list("version", flat=True)


def describe_paste(*, config: AclConfig, url: LiveUrl | None, now: datetime) -> PasteNote:
    """What `config` means for what the customer has pasted; four queries at most."""
    owner_pk = config.rental.user_id
    taken = taken_versions(rental_pk=config.rental_id, owner_pk=owner_pk).first()
    return weigh_paste(config=config, url=url, now=now, taken=taken)


def weigh_paste(*, config: AclConfig, url: LiveUrl | None, now: datetime, taken: int | None) -> PasteNote:
    """As `describe_paste`, of a customer who took version `taken` last; three queries at most."""
    old = None
    if taken is None:
        old = _last_lacking(config, now)
    elif taken != config.version:
        old = AclConfig.objects.filter(rental=config.rental_id, version=taken).first()
    changes = compare_maps(old.derp_map, config.derp_map) if old else ()
    return PasteNote(
        taken=taken,
        since=old.version if old else None,
        changes=changes,
        is_live=is_live(url, now),
        may_be_live=_is_fetched(url, now),
        old_until=retired_until(rental_pk=config.rental_id, now=now) if _is_needed(changes) else None,
    )


def _told_before(config: AclConfig) -> QuerySet[AclConfig]:
    """The versions before that stood long enough to be pasted, the newest first."""
    told = AclConfig.objects.filter(
        rental=config.rental_id, told_at__isnull=False, version__lt=config.version
    )
    return told.order_by("-version")


def _last_lacking(config: AclConfig, now: datetime) -> AclConfig | None:
    """The newest version before from which something needed is missing, of the last one and those that have not lapsed."""
    for number, old in enumerate(_told_before(config)[:_OLD_VERSIONS]):
        if number and old.ends_at <= now:
            break
        if _is_needed(compare_maps(old.derp_map, config.derp_map)):
            return old
    return None


def due_news(now: datetime) -> QuerySet[AclConfig]:
    """The versions that are new to their customers and have been quiet for `SETTLES`."""
    return AclConfig.objects.filter(is_active=True, told_at=None, created_at__lte=now - SETTLES).order_by(
        "pk"
    )


def due_reminders(now: datetime) -> QuerySet[AclConfig]:
    """The versions told, and not again, of rentals whose old relays go within a day, or went in the last."""
    going = Relay.objects.filter(
        retiring_since__lte=now - timedelta(days=settings.ROTATION_GRACE_DAYS) + _REMINDS_BEFORE,
        retiring_since__gt=now - timedelta(days=settings.ROTATION_GRACE_DAYS) - _REMINDS_BEFORE,
    )
    return AclConfig.objects.filter(
        is_active=True, told_at__isnull=False, reminded_at=None, rental__in=going.values("rental")
    ).order_by("pk")


@transaction.atomic
def remind(*, config_pk: int, now: datetime) -> bool:
    """Tell a customer again that they have to paste, before the relays go that their version leads to; False when they need not."""
    due = AclConfig.objects.filter(pk=config_pk, is_active=True, told_at__isnull=False, reminded_at=None)
    config = due.select_related("rental__user").first()
    if config is None or not due.update(reminded_at=now):
        return False
    url = LiveUrl.objects.filter(rental=config.rental_id, revoked_at=None).defer("secret").first()
    note = describe_paste(config=config, url=url, now=now)
    # Told of this change less than a day ago, as where the grace is short, they know.
    if not note.must_paste or (config.told_at and config.told_at > now - _REMINDS_BEFORE):
        return False
    _notify(config, note, key=":again")
    return True


@transaction.atomic
def tell_change(*, config_pk: int, now: datetime) -> bool:
    """Tell a customer that they have to paste a new version of their map; False when they need not. Each version is told once.

    A first version is not told: its customer sees it on the page where they wait for it. When they took one that was followed before
    it had been quiet, they are told what it lacks. Whoever took none hears of a version that leads elsewhere than the one before.
    """
    if not AclConfig.objects.filter(pk=config_pk, is_active=True, told_at=None).update(told_at=now):
        return False
    config = AclConfig.objects.select_related("rental__user").get(pk=config_pk)
    url = LiveUrl.objects.filter(rental=config.rental_id, revoked_at=None).defer("secret").first()
    note = describe_paste(config=config, url=url, now=now)
    if not note.must_paste:
        before = _told_before(config).first() if note.may_paste else None
        if before is None or not _is_needed(compare_maps(before.derp_map, config.derp_map)):
            return False
    _notify(config, note)
    return True


def _notify(config: AclConfig, note: PasteNote, key: str = "") -> None:
    notify(
        user=config.rental.user,
        kind="map_changed",
        key=f"map_changed:{config.rental_id}:{config.version}{key}",
        context={
            "version": config.version,
            "valid_until": config.ends_at.isoformat(),
            "old_version": note.since,
            "changes": [asdict(change) for change in note.changes],
            "taken": note.taken,
            "must_paste": note.must_paste,
            "may_paste": note.may_paste,
            "may_be_live": note.may_be_live,
            "old_until": note.old_until.isoformat() if note.old_until else None,
            "url": f"{settings.PUBLIC_URL}{reverse('home')}#derp-map",
        },
    )
