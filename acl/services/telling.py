"""What customers are told about new versions of their map: what changed, and whether anything must be pasted again."""

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.urls import reverse

from accounts.services import notify
from acl.derpmap import Change, compare_maps
from acl.models import AclConfig, AclEvent, LiveUrl
from serials.models import Rental

# Relays often change one after another: what the customer is told is what came of it, once it has been quiet for so long.
SETTLES = timedelta(minutes=2)
# A live URL that was fetched within this time is taken for the way by which the customer gets his map.
LIVE_WITHIN = timedelta(days=2)
_TOLD_AT_ONCE = 200


@dataclass(frozen=True)
class PasteNote:
    """Whether the customer must paste again: `taken` is the version that he took last (None = never any), `changes` what
    leads elsewhere in the present one, `is_live` says that a live URL brings it to him by itself."""

    taken: int | None
    changes: tuple[Change, ...]
    is_live: bool

    @property
    def must_paste(self) -> bool:
        return bool(self.changes) and not self.is_live


def is_live(url: LiveUrl | None, now: datetime) -> bool:
    """Whether this is how the customer's map gets to him."""
    return bool(url and url.last_fetched_at and now - url.last_fetched_at < LIVE_WITHIN)


def describe_paste(*, config: AclConfig, url: LiveUrl | None, now: datetime) -> PasteNote:
    """What `config` means for what the customer has pasted, judged by the version that he took last; two queries at most."""
    taken = (
        AclEvent.objects.filter(
            rental=config.rental_id,
            kind=AclEvent.Kind.DOWNLOADED,
            by__rental=config.rental_id,
            version__isnull=False,
        )
        .order_by("-pk")
        .values_list("version", flat=True)
        .first()
    )
    changes: tuple[Change, ...] = ()
    if taken is not None and taken != config.version:
        old = AclConfig.objects.filter(rental=config.rental_id, version=taken).first()
        changes = compare_maps(old.derp_map, config.derp_map) if old else ()
    return PasteNote(taken, changes, is_live(url, now))


def tell_changes(*, now: datetime) -> int:
    """Tell the customers whose map changed and has been quiet for `SETTLES`; returns how many. Each version is told once.

    A first version is not told: its customer sees it on the page where he waits for it.
    """
    quiet = AclConfig.objects.filter(is_active=True, told_at=None, created_at__lte=now - SETTLES)
    return sum(_tell(config_pk, now) for config_pk in quiet.values_list("pk", flat=True)[:_TOLD_AT_ONCE])


@transaction.atomic
def _tell(config_pk: int, now: datetime) -> bool:
    if not AclConfig.objects.filter(pk=config_pk, is_active=True, told_at=None).update(told_at=now):
        return False
    config = AclConfig.objects.select_related("rental__user").get(pk=config_pk)
    rental: Rental = config.rental
    told = AclConfig.objects.filter(rental=rental, told_at__isnull=False, version__lt=config.version)
    before = told.order_by("-version").first()
    if before is None:
        return False
    url = LiveUrl.objects.filter(rental=rental, revoked_at=None).defer("secret").first()
    note = describe_paste(config=config, url=url, now=now)
    notify(
        user=rental.user,
        kind="map_changed",
        key=f"map_changed:{rental.pk}:{config.version}",
        context={
            "version": config.version,
            "valid_until": config.ends_at.isoformat(),
            "old_version": before.version,
            "changes": [asdict(change) for change in compare_maps(before.derp_map, config.derp_map)],
            "taken": note.taken,
            "must_paste": note.must_paste,
            "is_live": note.is_live,
            "url": f"{settings.PUBLIC_URL}{reverse('home')}#derp-map",
        },
    )
    return True
