"""Making versions of a customer's map, and handing them out."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from django.db import transaction
from django.db.models import F, Max
from django.utils import timezone, translation
from django.utils.translation import gettext, gettext_noop
from django.utils.translation import gettext_lazy as _

from accounts.models import User
from accounts.services import log_operation
from acl import derpmap
from acl.derpmap import MapFormat, MapNode
from acl.models import VALID_FOR, AclConfig, AclEvent, MapRegion
from containers.models import Relay
from serials.models import Rental
from serials.services import is_paid

RELAYS_CHANGED = gettext_noop("relays were added or changed")
REGION_CHANGED = gettext_noop("a region ID was changed")
LAPSED = gettext_noop("the version before it lapsed")
NOT_ENTITLED = gettext_noop("the rental is not active")
NO_RELAY = gettext_noop("there is no relay left")
COPIED = gettext_noop("copied from the page")

_REFUSALS = {
    "no_rental": gettext_noop("You have no rental yet: redeem a serial number first."),
    "closed": gettext_noop("This account is closed."),
    "paused": gettext_noop("Your rental is paused. The map is back as soon as it is resumed."),
    "expired": gettext_noop("Your rental has expired. Renew it, and you get a new map."),
    "unpaid": gettext_noop("Your serial number is not paid for yet. Ask the one who sold it to you."),
    "no_map": gettext_noop(
        "Your relays are still being prepared. The map follows as soon as one of them has passed its test."
    ),
    "lapsed": gettext_noop(
        "This version of the map has lapsed. A new one is being made: look again in a minute."
    ),
}


class DownloadRefused(Exception):
    """The map may not be handed out: `code` says why as a slug, `reason` in English, `str()` in the reader's language."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code
        self.reason = _REFUSALS[code]

    def __str__(self) -> str:
        return gettext(self.reason)


class RegionIdRefused(Exception):
    """A region ID cannot be had; `str()` is the sentence that says why."""


@dataclass(frozen=True)
class MapFile:
    """The map as it leaves the panel."""

    name: str
    content_type: str
    text: str = field(repr=False)
    config: AclConfig


# Making versions


def active_config(rental: Rental) -> AclConfig | None:
    """The version that counts now, lapsed or not; None while there is none."""
    return AclConfig.objects.filter(rental=rental, is_active=True).first()


@transaction.atomic
def refresh_map(*, rental: Rental, reason: str, by: User | None = None) -> AclConfig | None:
    """Make the active version what the rental's relays call for; None when it already is, or when no map is due.

    A new version is made when the way to a relay differs or the old version has lapsed; a new name alone waits for that. A
    rental without rights or relays loses its map. `reason` (an English sentence marked for translation) says why the relays
    may have changed, `by` who did it (None = the system). Harmless when doubled.
    """
    rental = Rental.objects.select_for_update().get(pk=rental.pk)
    now = timezone.now()
    active = active_config(rental)
    if not rental.is_entitled(now):
        _withdraw(rental, active, NOT_ENTITLED)
        return None
    relays = list(
        Relay.objects.filter(rental=rental)
        .in_map()
        .select_related("server__region")
        .order_by(F("slot").asc(nulls_last=True), "pk")
    )
    if not relays:
        _withdraw(rental, active, NO_RELAY)
        return None
    region_ids = _allocate_region_ids(rental, relays)
    with translation.override(rental.user.language):
        derp_map = derpmap.build_map(_map_node(relay, region_ids[relay.pk]) for relay in relays)
    if active and derpmap.ways(active.derp_map) == derpmap.ways(derp_map):
        if now < active.ends_at:
            return None
        reason, by = LAPSED, None
    last = AclConfig.objects.filter(rental=rental).aggregate(last=Max("version"))["last"] or 0
    if active:
        AclConfig.objects.filter(pk=active.pk).update(is_active=None)
    config = AclConfig.objects.create(
        rental=rental,
        version=last + 1,
        derp_map=derp_map,
        created_at=now,
        ends_at=now + VALID_FOR,
        reason=reason[:200],
    )
    record_event(rental=rental, kind=AclEvent.Kind.MADE, version=config.version, reason=reason, by=by)
    return config


def _withdraw(rental: Rental, active: AclConfig | None, reason: str) -> None:
    if active:
        AclConfig.objects.filter(pk=active.pk).update(is_active=None)
        record_event(rental=rental, kind=AclEvent.Kind.WITHDRAWN, version=active.version, reason=reason)


def _map_node(relay: Relay, region_id: int) -> MapNode:
    region = relay.server.region
    return MapNode(
        region_id=region_id,
        # As the relay's card is headed. One on its way out stands beside its successor: there the region ID tells them apart.
        number=relay.slot or region_id,
        code=region.code,
        name=region.name,
        latitude=region.latitude,
        longitude=region.longitude,
        address=relay.server.address,
        derp_port=relay.derp_port,
        stun_port=relay.stun_port,
        certificate_sha256=relay.certificate_sha256,
    )


def _is_free(row: MapRegion) -> bool:
    """Whether the relay that had this number is gone for the map."""
    return row.relay is None or row.relay.status in {Relay.Status.REMOVING, Relay.Status.RELEASED}


def _allocate_region_ids(rental: Rental, relays: Iterable[Relay]) -> dict[int, int]:
    """The region ID of each relay by its pk; a new relay takes the number of one that is gone, else the lowest free one."""
    rows = list(MapRegion.objects.filter(rental=rental).select_related("relay"))
    taken = {row.region_id for row in rows}
    region_ids = {row.relay_id: row.region_id for row in rows if row.relay_id}
    heirless = [row for row in rows if _is_free(row)]
    # 900 comes last: it is what people choose for relays of their own.
    free = (number for number in [*range(901, 1000), 900] if number not in taken)
    for relay in relays:
        if relay.pk in region_ids:
            continue
        if heirless:
            row = heirless.pop(0)
            row.relay = relay
            row.save(update_fields=["relay"])
        else:
            row = MapRegion.objects.create(rental=rental, relay=relay, region_id=next(free))
        region_ids[relay.pk] = row.region_id
    return region_ids


def due_rentals(now: datetime) -> list[Rental]:
    """Rentals whose active version has lapsed, is missing, or is not what their relays call for; two queries."""
    wanted: dict[int, set[derpmap.Way]] = defaultdict(set)
    relays = Relay.objects.in_map().filter(rental__in=Rental.objects.entitled(now))
    columns = ("map_region__region_id", "server__address", "derp_port", "stun_port", "certificate_sha256")
    for rental_pk, *way in relays.values_list("rental_id", *columns):
        wanted[rental_pk].add((way[0], way[1], way[2], way[3], way[4]))
    is_right = {
        rental_pk: now < ends_at and derpmap.ways(derp_map) == wanted.get(rental_pk)
        for rental_pk, ends_at, derp_map in AclConfig.objects.filter(is_active=True).values_list(
            "rental_id", "ends_at", "derp_map"
        )
    }
    due = sorted(pk for pk in wanted.keys() | is_right.keys() if not is_right.get(pk))
    return list(Rental.objects.filter(pk__in=due)) if due else []


def change_region_id(
    *, rental: Rental, map_region: MapRegion, region_id: int, by: User, ip: str | None = None
) -> AclConfig | None:
    """Give a relay of this rental another region ID and make the version that has it; None when the number stays.

    Raises `RegionIdRefused` when the number is not from 900 to 999, or another of the customer's relays has it.
    """
    if not derpmap.FIRST_REGION_ID <= region_id <= derpmap.LAST_REGION_ID:
        raise RegionIdRefused(_("Choose a number from 900 to 999: only these are yours to give."))
    with transaction.atomic():
        rental = Rental.objects.select_for_update().get(pk=rental.pk)
        row = MapRegion.objects.filter(rental=rental, pk=map_region.pk).first()
        if row is None:
            raise RegionIdRefused(_("This region is no longer in your map. Reload the page."))
        if row.region_id == region_id:
            return None
        holder = MapRegion.objects.filter(rental=rental, region_id=region_id).select_related("relay").first()
        if holder and not _is_free(holder):
            raise RegionIdRefused(
                gettext("%(number)s is the region ID of another of your relays.") % {"number": region_id}
            )
        if holder:
            holder.delete()
        old, row.region_id = row.region_id, region_id
        row.save(update_fields=["region_id"])
        log_operation(
            by=by, action="map.region_changed", target=f"{old} → {region_id}", subject=rental.user, ip=ip
        )
        return refresh_map(rental=rental, reason=REGION_CHANGED, by=by)


# Handing out


def check_download(*, rental: Rental | None, now: datetime) -> AclConfig:
    """The version that may be handed out now; raises `DownloadRefused` with the reason when none may."""
    if rental is None:
        raise DownloadRefused("no_rental")
    if rental.closed_at:
        raise DownloadRefused("closed")
    if rental.paused_at:
        raise DownloadRefused("paused")
    if not rental.is_entitled(now):
        raise DownloadRefused("expired")
    if not is_paid(rental, now):
        raise DownloadRefused("unpaid")
    config = active_config(rental)
    if config is None:
        raise DownloadRefused("no_map")
    if config.ends_at <= now:
        raise DownloadRefused("lapsed")
    return config


def record_event(
    *,
    rental: Rental,
    kind: str,
    version: int | None = None,
    file_format: str = "",
    reason: str = "",
    by: User | None = None,
    ip: str | None = None,
    browser: str = "",
) -> AclEvent:
    """Write down what happened to the map; `by` None means the system. Texts are cut to what fits."""
    return AclEvent.objects.create(
        rental=rental,
        version=version,
        kind=kind,
        file_format=file_format,
        reason=reason[:200],
        by=by,
        ip=ip,
        browser=derpmap.clean_text(browser)[:200],
    )


def hand_out_map(
    *,
    rental: Rental | None,
    file_format: MapFormat,
    by: User | None,
    ip: str | None = None,
    browser: str = "",
    is_copy: bool = False,
) -> MapFile:
    """The map as a file, and the record that it was taken; `is_copy` says that it was copied from the page.

    Raises `DownloadRefused`, which is recorded too (a person without a rental has no map to be refused).
    """
    try:
        config = check_download(rental=rental, now=timezone.now())
    except DownloadRefused as refusal:
        if rental:
            record_event(
                rental=rental,
                kind=AclEvent.Kind.REFUSED,
                file_format=file_format,
                reason=refusal.reason,
                by=by,
                ip=ip,
                browser=browser,
            )
        raise
    record_event(
        rental=config.rental,
        kind=AclEvent.Kind.DOWNLOADED,
        version=config.version,
        file_format=file_format,
        reason=COPIED if is_copy else "",
        by=by,
        ip=ip,
        browser=browser,
    )
    return MapFile(
        name=f"derpmgmt-v{config.version}.{file_format.value}",
        content_type=derpmap.CONTENT_TYPES[file_format],
        text=derpmap.render_map(
            config.derp_map, file_format, version=config.version, ends_at=timezone.localtime(config.ends_at)
        ),
        config=config,
    )


# What pages show


@dataclass(frozen=True)
class MapTab:
    """One form of the map on the page; `hint` says in a sentence where it goes."""

    file_format: MapFormat
    title: str
    hint: str
    text: str = field(repr=False)


@dataclass(frozen=True)
class MapRegionLine:
    """One relay in the map: its row, its name and its code."""

    row: MapRegion
    name: str
    code: str


@dataclass(frozen=True)
class MapPanel:
    """All that a page says about a customer's map: either `config`, `tabs` and `regions`, or the `refusal`."""

    config: AclConfig | None = None
    refusal: str = ""
    tabs: tuple[MapTab, ...] = ()
    regions: tuple[MapRegionLine, ...] = ()


def describe_map(*, rental: Rental | None, now: datetime) -> MapPanel:
    """What `acl/_map.html` shows, under the same conditions as a download but without a record; few, fixed queries."""
    try:
        config = check_download(rental=rental, now=now)
    except DownloadRefused as refusal:
        return MapPanel(refusal=str(refusal))
    ends_at = timezone.localtime(config.ends_at)
    tabs = (
        MapTab(
            MapFormat.HUJSON,
            gettext("Tailscale (official)"),
            gettext("Goes into your policy file, right after its first {."),
            derpmap.to_hujson_key(config.derp_map, version=config.version, ends_at=ends_at),
        ),
        MapTab(
            MapFormat.YAML,
            gettext("Headscale"),
            gettext("A file for derp: paths: in Headscale's config.yaml."),
            derpmap.to_headscale_yaml(config.derp_map, version=config.version, ends_at=ends_at),
        ),
        MapTab(
            MapFormat.JSON,
            gettext("JSON"),
            gettext("The bare DERPMap, for scripts."),
            derpmap.to_json(config.derp_map),
        ),
    )
    regions = config.derp_map["Regions"]
    lines = tuple(
        MapRegionLine(
            row, regions[str(row.region_id)]["RegionName"], regions[str(row.region_id)]["RegionCode"]
        )
        for row in MapRegion.objects.filter(
            rental=config.rental_id, region_id__in=[int(key) for key in regions]
        )
    )
    return MapPanel(config=config, tabs=tabs, regions=lines)
