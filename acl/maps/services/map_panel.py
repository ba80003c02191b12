"""What pages show about maps and live URLs."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db import connection
from django.db.models import F, FilteredRelation, Q, Subquery
from django.utils import timezone
from django.utils.translation import get_language, gettext

from accounts.brand import current_brand
from acl.maps import derpmap
from acl.maps.derpmap import MapFormat
from acl.maps.models import AclConfig, LiveUrl, MapRegion
from acl.maps.services.downloads import DownloadRefused, check_download, check_rights, check_version
from acl.maps.services.live_urls import live_address
from acl.maps.services.map_news import PasteNote, taken_versions, weigh_paste
from derpmgmt.lib.kept import Kept
from derpmgmt.lib.prepared import Prepared
from serials.rentals.models import Rental
from serials.rentals.services import Standing


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
    """All that a page says about a customer's map: either `config`, `tabs` and `paste`, or the `refusal`."""

    config: AclConfig | None = None
    paste: PasteNote | None = None
    live: LiveUrl | None = None
    refusal: str = ""
    tabs: tuple[MapTab, ...] = ()

    @property
    def regions(self) -> list[dict[str, str]]:
        """`name` and `code` of each relay in the map, as clients print them."""
        regions = self.config.derp_map["Regions"].values() if self.config else ()
        return [{"name": region["RegionName"], "code": region["RegionCode"]} for region in regions]


_LIVE = ("id", "rental_id", "created_at", "last_fetched_at")
# The version that counts, with the live URL and the version that the customer took last.
_ACTIVE = Prepared(
    lambda rental, owner: AclConfig.objects.filter(rental=rental, is_active=True).annotate(
        url=FilteredRelation("rental__live_urls", condition=Q(rental__live_urls__revoked_at__isnull=True)),
        **{f"live_{name}": F(f"url__{name}") for name in _LIVE},
        taken=Subquery(taken_versions(rental_pk=rental, owner_pk=owner)[:1]),
    )
)
# The three forms of a version, and what leads them in.
_TABS: Kept[tuple[MapTab, ...]] = Kept(500)


def describe_map(*, rental: Rental | None, now: datetime, standing: Standing | None = None) -> MapPanel:
    """What `acl/maps/_map.html` shows, under the same conditions as a download but without a record; few, fixed queries.

    `standing` saves one to whoever has it.
    """
    try:
        rental = check_rights(rental=rental, now=now, paid=standing.is_paid if standing else None)
        found = _ACTIVE.read(rental=rental.pk, owner=rental.user_id)
        config: Any = check_version(found[0] if found else None, now)
    except DownloadRefused as refusal:
        return MapPanel(refusal=str(refusal))
    live = None
    if config.live_id is not None:
        live = LiveUrl.from_db(connection.alias, _LIVE, [getattr(config, f"live_{name}") for name in _LIVE])
    brand = current_brand().name
    key = (repr(config.derp_map), config.version, config.ends_at, brand, get_language())
    paste = weigh_paste(config=config, url=live, now=now, taken=config.taken)
    return MapPanel(
        config=config,
        paste=paste,
        live=live,
        tabs=_TABS.get(key, lambda: _tabs(config, brand)),
    )


def _tabs(config: AclConfig, brand: str) -> tuple[MapTab, ...]:
    ends_at = timezone.localtime(config.ends_at)
    return (
        MapTab(
            MapFormat.HUJSON,
            gettext("Tailscale (official)"),
            gettext("Goes into your policy file, right after its first {."),
            derpmap.to_hujson_key(config.derp_map, version=config.version, ends_at=ends_at, brand=brand),
        ),
        MapTab(
            MapFormat.YAML,
            gettext("Headscale"),
            gettext("A file for derp: paths: in Headscale's config.yaml."),
            derpmap.to_headscale_yaml(config.derp_map, version=config.version, ends_at=ends_at, brand=brand),
        ),
        MapTab(
            MapFormat.JSON,
            gettext("JSON"),
            gettext("The bare DERPMap, for scripts."),
            derpmap.to_json(config.derp_map),
        ),
    )


@dataclass(frozen=True)
class VersionPanel:
    """What may be done with a customer's map: either the version that counts with the `regions` in it, or the `refusal`."""

    config: AclConfig | None = None
    refusal: str = ""
    regions: tuple[MapRegionLine, ...] = ()


def describe_version(*, rental: Rental | None, now: datetime) -> VersionPanel:
    """What stands above the list of versions; few, fixed queries."""
    try:
        config = check_download(rental=rental, now=now)
    except DownloadRefused as refusal:
        return VersionPanel(refusal=str(refusal))
    regions = config.derp_map["Regions"]
    rows = MapRegion.objects.filter(rental=config.rental_id, region_id__in=[int(key) for key in regions])
    lines = ((row, regions[str(row.region_id)]) for row in rows)
    return VersionPanel(
        config,
        regions=tuple(
            MapRegionLine(row, region["RegionName"], region["RegionCode"]) for row, region in lines
        ),
    )


@dataclass(frozen=True)
class LivePanel:
    """All that the page of the live URL says. `address`, `timer` (five lines for cron) and `lines` (for Headscale's config.yaml, when
    it reads the address itself) hold the secret; `file_lines` are for its config.yaml when the timer keeps a file; `is_empty` says that it answers without regions at the moment, `is_lapsed` that it answers with a failure, which readers pass over."""

    url: LiveUrl | None = None
    address: str = field(default="", repr=False)
    timer: str = field(default="", repr=False)
    file_lines: str = ""
    lines: str = field(default="", repr=False)
    is_empty: bool = False
    is_lapsed: bool = False


def describe_live(*, rental: Rental | None, now: datetime) -> LivePanel:
    """What `acl/maps/live_show.html` shows; few, fixed queries."""
    url = LiveUrl.objects.filter(rental=rental, revoked_at=None).first() if rental else None
    if rental is None or url is None:
        return LivePanel()
    refused = ""
    try:
        check_download(rental=rental, now=now)
    except DownloadRefused as refusal:
        refused = refusal.code
    address = live_address(url)
    return LivePanel(
        url,
        address,
        derpmap.to_headscale_timer(address),
        derpmap.to_headscale_file_config(),
        derpmap.to_headscale_config(address),
        is_empty=refused not in {"", "lapsed"},
        is_lapsed=refused == "lapsed",
    )
