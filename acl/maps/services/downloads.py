"""Handing a map out, and on what conditions."""

from dataclasses import dataclass, field
from datetime import datetime

from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext_lazy, gettext_noop

from accounts.models import User
from accounts.services import log_operation
from acl.maps import derpmap
from acl.maps.derpmap import MapFormat
from acl.maps.models import AclConfig, AclEvent
from acl.maps.services.versions import RENEWED, active_config, record_event, refresh_map
from derpmgmt.lib.refusals import Refusal
from serials.rentals.models import Rental
from serials.rentals.services import is_paid

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


class DownloadRefused(Refusal):
    """The map may not be handed out: `code` says why as a slug, `reason` in English."""

    def __init__(self, code: str) -> None:
        self.reason = _REFUSALS[code]
        super().__init__(gettext_lazy(self.reason), code=code)


class ChangedMeanwhile(Refusal):
    """What was to be replaced is not what there is any more, so nothing was done."""

    code = "changed_meanwhile"
    sentence = gettext_lazy("This has changed meanwhile, perhaps in another window: nothing was done.")


@dataclass(frozen=True)
class MapFile:
    """The map as it leaves the panel."""

    name: str
    content_type: str
    text: str = field(repr=False)
    config: AclConfig


def check_rights(*, rental: Rental | None, now: datetime) -> Rental:
    """The rental when it has a right to a map now; raises `DownloadRefused` with the reason when not."""
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
    return rental


def check_download(*, rental: Rental | None, now: datetime) -> AclConfig:
    """The version that may be handed out now; raises `DownloadRefused` with the reason when none may."""
    config = active_config(check_rights(rental=rental, now=now))
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
) -> MapFile:
    """The map as a file, and the record that it was taken; `copied` is the version that was copied from a page, which may have
    stood there since before the present one was made.

    Raises `DownloadRefused`, which is recorded too (a person without a rental has no map to be refused), and `LookupError` when
    the rental never had a version `copied`.
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
    record_event(
        rental=config.rental,
        kind=AclEvent.Kind.DOWNLOADED,
        version=config.version,
        file_format=file_format,
        reason="" if copied is None else COPIED,
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
