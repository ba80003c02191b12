"""Handing a map out, and on what conditions."""

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.core.signing import BadSignature, Signer
from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext_lazy, gettext_noop

from accounts.brand import current_brand
from accounts.models import User
from accounts.services import log_operation
from acl.maps import derpmap
from acl.maps.derpmap import MapFormat
from acl.maps.models import AclConfig, AclEvent, MapRegion
from acl.maps.services.versions import RENEWED, active_config, record_event, refresh_map
from derpmgmt.lib.refusals import Refusal
from serials.rentals.models import Rental
from serials.rentals.services import is_paid

# How often one person may take the map; and make a new version by hand, or another live URL.
HAND_OUT_RATE = "60/10m"
RENEW_RATE = "10/d"

COPIED = gettext_noop("copied from the page")
PARTIAL = gettext_noop("only some of its relays")

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
        "This version of the map has expired. A new one is being made: check again in a minute."
    ),
}


class DownloadRefused(Refusal):
    """The map may not be handed out: `code` says why as a slug, `reason` in English."""

    def __init__(self, code: str) -> None:
        self.reason = _REFUSALS[code]
        super().__init__(gettext_lazy(self.reason), code=code)


class ChangedMeanwhile(Refusal):
    """What was to be replaced is not what there is any more, so nothing was done."""

    code = "changed_meanwhile"
    sentence = gettext_lazy("This has changed meanwhile, perhaps in another window: nothing was done.")


class Superseded(Refusal):
    """The version is not the one that counts any more."""

    code = "superseded"
    sentence = gettext_lazy("Version %(version)s is not the newest any more: version %(newest)s is.")


class NotInMap(Refusal):
    """None of the relays that were asked for is in the map."""

    code, field = "not_in_map", "server_ids"
    sentence = gettext_lazy("No relay of this map stands on these servers.")


@dataclass(frozen=True)
class MapFile:
    """The map as it leaves the panel."""

    name: str
    content_type: str
    text: str = field(repr=False)
    config: AclConfig
    derp_map: dict[str, Any] = field(repr=False)
    code: "MapCode"


def check_rights(*, rental: Rental | None, now: datetime, paid: bool | None = None) -> Rental:
    """The rental when it has a right to a map now; raises `DownloadRefused` with the reason when not.

    `paid`, what `is_paid` says, saves a query to whoever knows it.
    """
    if rental is None:
        raise DownloadRefused("no_rental")
    if rental.closed_at:
        raise DownloadRefused("closed")
    if rental.paused_at:
        raise DownloadRefused("paused")
    if not rental.is_entitled(now):
        raise DownloadRefused("expired")
    if not (is_paid(rental, now) if paid is None else paid):
        raise DownloadRefused("unpaid")
    return rental


def check_download(*, rental: Rental | None, now: datetime) -> AclConfig:
    """The version that may be handed out now; raises `DownloadRefused` with the reason when none may."""
    return check_version(active_config(check_rights(rental=rental, now=now)), now)


def check_version(config: AclConfig | None, now: datetime) -> AclConfig:
    """The active version, when it may be handed out to whoever has a right to it; raises `DownloadRefused` when not."""
    if config is None:
        raise DownloadRefused("no_map")
    if config.ends_at <= now:
        raise DownloadRefused("lapsed")
    return config


def hand_out_map(
    *,
    rental: Rental | None,
    file_format: MapFormat,
    by: User | None,
    ip: str | None = None,
    browser: str = "",
    copied: int | None = None,
    code: "MapCode | None" = None,
    servers: Collection[int] = (),
) -> MapFile:
    """The map as a file, and the record that it was taken; `copied` is the version that was copied from a page, which may have
    stood there since before the present one was made. `code` names the version, or the part of it, that is wanted; with `servers` (pks)
    it is the part that leads to relays there. Whoever took a part has not taken the version.

    Raises `DownloadRefused`, which is recorded too (a person without a rental has no map to be refused), `Superseded` where another version
    than the code's counts now, `NotInMap` when no relay stands on `servers`, and `LookupError` when the rental never had a version `copied`.
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
    if copied is not None and copied != config.version:
        shown = AclConfig.objects.filter(rental=config.rental_id, version=copied).first()
        if shown is None:
            raise LookupError(copied)
        config = shown
    if code is not None and code.version != config.version:
        raise Superseded(version=code.version, newest=config.version)
    regions = _regions_on(config, servers) if servers else code.regions if code else ()
    derp_map = derpmap.part_of(config.derp_map, regions) if regions else config.derp_map
    record_event(
        rental=config.rental,
        kind=AclEvent.Kind.DOWNLOADED,
        version=config.version,
        file_format=file_format,
        reason=COPIED if copied is not None else PARTIAL if regions else "",
        by=by,
        ip=ip,
        browser=browser,
    )
    return MapFile(
        name=f"derpmap-v{config.version}.{file_format.value}",
        content_type=derpmap.CONTENT_TYPES[file_format],
        text=derpmap.render_map(
            derp_map,
            file_format,
            version=config.version,
            ends_at=timezone.localtime(config.ends_at),
            brand=current_brand().name,
        ),
        config=config,
        derp_map=derp_map,
        code=MapCode(config.rental_id, config.version, regions),
    )


def _regions_on(config: AclConfig, servers: Collection[int]) -> tuple[int, ...]:
    """The region IDs of a version whose relays stand on these servers. Raises `NotInMap` for none."""
    found = MapRegion.objects.filter(
        rental=config.rental_id,
        region_id__in=[int(key) for key in config.derp_map["Regions"]],
        relay__server__in=servers,
    )
    regions = tuple(sorted(found.values_list("region_id", flat=True)))
    if not regions:
        raise NotInMap
    return regions


@dataclass(frozen=True)
class MapCode:
    """What a version of somebody's map is called outside: rental and version, and of a part of the map its region IDs.

    The text is signed, so nobody finds others by counting; it gives no right by itself.
    """

    rental: int
    version: int
    regions: tuple[int, ...] = ()

    def __str__(self) -> str:
        return _signer().sign("-".join(str(number) for number in (self.rental, self.version, *self.regions)))

    @classmethod
    def read(cls, text: str) -> "MapCode":
        """What a text says. Raises `LookupError` for one that the panel did not write."""
        try:
            rental, version, *regions = (int(number) for number in _signer().unsign(text).split("-"))
        except (BadSignature, ValueError) as error:
            raise LookupError from error
        return cls(rental, version, tuple(regions))


def _signer() -> Signer:
    return Signer(sep=".", salt="acl.maps.code")


def renew_map(
    *, rental: Rental | None, by: User | None, instead_of: int | None = None, ip: str | None = None
) -> AclConfig:
    """Make a new version by hand, valid from now, whether anything differs or not.

    `instead_of` is the version that it is to follow (None = whichever counts now): raises `ChangedMeanwhile` when that one has been
    followed already. Raises `DownloadRefused` when the rental has no right to a map or none of its relays is proven.
    """
    rental = check_rights(rental=rental, now=timezone.now())
    with transaction.atomic():
        rental = Rental.objects.select_for_update().get(pk=rental.pk)
        active = active_config(rental)
        if instead_of is not None and active and active.version != instead_of:
            raise ChangedMeanwhile
        config = refresh_map(rental=rental, reason=RENEWED, by=by, is_forced=True)
        if config:
            log_operation(by=by, action="map.renewed", target=config, subject=rental.user, ip=ip)
    # Not before the end of the transaction: that there is no map any more is a change too.
    if config is None:
        raise DownloadRefused("no_map")
    return config
