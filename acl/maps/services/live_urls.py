"""Live URLs: the secret addresses under which a customer's current map is fetched."""

import secrets
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import redis
from django.conf import settings
from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from accounts.models import User
from accounts.services import log_operation
from acl.maps import copies, derpmap
from acl.maps.copies import Copy, Fetches
from acl.maps.models import AclConfig, AclEvent, LiveUrl, MapRegion
from acl.maps.services.downloads import ChangedMeanwhile, DownloadRefused, check_download
from acl.maps.services.regions import LETS_GO_AFTER, may_answer
from acl.maps.services.versions import was_handed_out
from derpmgmt.lib.crypto import keyed_hash
from derpmgmt.lib.places import place_of
from serials.rentals.models import Rental

PREFIX = "/live/"
# 24 random bytes: 192 bits, 32 characters of base64url.
_SECRET_BYTES = 24
# So many lines of the log are written in one go.
_LINES_AT_ONCE = 2000
# The ports of a rental's relays are closed so long after its end at the latest, as far as nobody can look.
_CLOSED_WITHIN = timedelta(minutes=1)
# No copy takes so long to be written.
_UNFINISHED_FOR = timedelta(hours=1)


def secret_hash(secret: str) -> str:
    """By what a live URL is found."""
    return keyed_hash("live url", secret)


def live_address(url: LiveUrl) -> str:
    """The whole address, secret included: for its owner, and for operators by `reveal_live_url`."""
    return f"{settings.PUBLIC_URL}{PREFIX}{url.secret}.json"


@transaction.atomic
def create_live_url(
    *, rental: Rental, by: User | None, instead_of: int | None = None, ip: str | None = None
) -> LiveUrl:
    """Make the rental's live URL; the one with the primary key `instead_of` is revoked (None: there is none yet).

    Raises `ChangedMeanwhile` when another one is in use than that, and `DownloadRefused` when the rental is closed.
    """
    rental = Rental.objects.select_for_update().get(pk=rental.pk)
    if rental.closed_at:
        raise DownloadRefused("closed")
    used = LiveUrl.objects.filter(rental=rental, revoked_at=None).first()
    if (used.pk if used else None) != instead_of or (used and not _revoke(used)):
        raise ChangedMeanwhile
    secret = secrets.token_urlsafe(_SECRET_BYTES)
    url = LiveUrl.objects.create(rental=rental, secret=secret, secret_hash=secret_hash(secret))
    log_operation(by=by, action="live_url.created", target=url, subject=rental.user, ip=ip)
    transaction.on_commit(partial(_publish, url.secret_hash))
    return url


def reveal_live_url(*, rental: Rental, by: User | None, ip: str | None = None) -> tuple[LiveUrl, bool]:
    """The rental's live URL, secret included, for an operator, and whether it was made now because there was none; logged.

    Raises `DownloadRefused` when the rental is closed, and `ChangedMeanwhile`.
    """
    url = LiveUrl.objects.filter(rental=rental, revoked_at=None).first()
    if url is None:
        return create_live_url(rental=rental, by=by, ip=ip), True
    log_operation(by=by, action="live_url.revealed", target=url, subject=rental.user, ip=ip)
    return url, False


@transaction.atomic
def revoke_live_url(*, url: LiveUrl, by: User | None, ip: str | None = None) -> bool:
    """End this live URL at once; False when it is revoked already."""
    if not _revoke(url):
        return False
    log_operation(by=by, action="live_url.revoked", target=url, subject=url.rental.user, ip=ip)
    return True


def _revoke(url: LiveUrl) -> bool:
    # The secret is of no use to anybody any more.
    revoked = LiveUrl.objects.filter(pk=url.pk, revoked_at=None).update(revoked_at=timezone.now(), secret="")
    if revoked:
        transaction.on_commit(partial(_publish, url.secret_hash))
    return bool(revoked)


# Copies


def read_copy(hashed: str) -> Copy | None:
    """What the live URL answers, from the database; None when there is no such URL. Three queries while the rental runs, two more
    after its end; none that locks."""
    now = timezone.now()
    url = LiveUrl.objects.defer("secret").select_related("rental").filter(secret_hash=hashed).first()
    return _copy(url, now) if url else None


def _copy(url: LiveUrl, now: datetime) -> Copy:
    read_at = now.timestamp()
    if url.revoked_at:
        return Copy(read_at, is_revoked=True)
    try:
        config = check_download(rental=url.rental, now=now)
    except DownloadRefused as refusal:
        # Only a version that lapsed because nothing made the next is a failure, which readers pass over.
        if refusal.code == "lapsed":
            return Copy(read_at, lapses_at=0.0)
        return _last_copy(url.rental, now, is_known=refusal.code != "unpaid" or was_handed_out(url.rental))
    runs_until = url.rental.runs_until
    assert runs_until is not None
    return _map_copy(
        config.derp_map,
        now,
        version=config.version,
        counts_until=(runs_until + _CLOSED_WITHIN + LETS_GO_AFTER).timestamp(),
        lapses_at=config.ends_at.timestamp(),
    )


def _last_copy(rental: Rental, now: datetime, *, is_known: bool) -> Copy:
    """What is answered without a right to a map: the last version's regions as long as their relays may answer, then none.

    Clients that still have such a relay as their home would go on sending to it (`acl.maps.services.regions`). Nothing when the customer
    never had the map (`is_known` False).
    """
    last = AclConfig.objects.filter(rental=rental).order_by("-version").first() if is_known else None
    rows = (
        MapRegion.objects.filter(rental=rental, relay__isnull=False).select_related("relay") if last else ()
    )
    standing = {str(row.region_id): row.relay for row in rows if row.relay and may_answer(row.relay, now)}
    regions: dict[str, Any] = {}
    if last:
        regions = {key: region for key, region in last.derp_map["Regions"].items() if key in standing}
    if last is None or not regions:
        return _map_copy(derpmap.EMPTY_MAP, now, is_closed=rental.closed_at is not None)
    # Read again before that, as long as anything can be read.
    until = max(
        relay.released_at + LETS_GO_AFTER
        if relay.released_at and relay.is_closed_since(now)
        else now + _CLOSED_WITHIN + LETS_GO_AFTER
        for relay in (standing[key] for key in regions)
    )
    return _map_copy({"Regions": regions}, now, version=last.version, counts_until=until.timestamp())


def _map_copy(derp_map: dict[str, Any], now: datetime, **fields: Any) -> Copy:
    return Copy(now.timestamp(), derpmap.to_json(derp_map), derpmap.to_headscale_file(derp_map), **fields)


def _publish(hashed: str) -> None:
    copy = read_copy(hashed)
    if copy:
        copies.keep(hashed, copy)


def publish_live_urls(*, rental_pk: int) -> None:
    """Write what the rental's live URL answers now to where it is served from; harmless when doubled."""
    urls = LiveUrl.objects.filter(rental=rental_pk, revoked_at=None)
    for hashed in urls.values_list("secret_hash", flat=True):
        _publish(hashed)


def clean_copies(*, now: datetime) -> None:
    """Remove what is left of URLs that are revoked or whose rental is closed; write anew what an ended rental still shows.

    Both are done when it happens. This is for what a process that died, or a Redis that was away, has left behind.
    """
    copies.remove_unfinished(now - _UNFINISHED_FOR)
    # Before the rows are read: a copy is written when its URL is already there.
    kept = copies.kept_hashes()
    if not kept:
        return
    urls = LiveUrl.objects.filter(revoked_at=None, rental__closed_at=None)
    shows_map = {
        hashed: until is not None and now < until
        for hashed, until in urls.values_list("secret_hash", "rental__entitled_until")
    }
    copies.forget(kept - shows_map.keys())
    for hashed in kept & shows_map.keys():
        if not shows_map[hashed] and (copy := copies.read_file(hashed)) and copy.counts_until is not None:
            _publish(hashed)


# The log


def record_fetches() -> int:
    """Write the fetches that Redis has counted to the log; returns the lines written. Harmless when killed or doubled.

    A line's count is that of its whole day, so writing it twice changes nothing. A Redis that is away is nothing new.
    """
    try:
        lines, until = copies.read_fetches(_LINES_AT_ONCE)
    except redis.RedisError:
        return 0
    if lines:
        _write(lines)
        copies.forget_fetches(until)
    return len(lines)


@transaction.atomic
def _write(lines: list[Fetches]) -> None:
    hashes = {line.secret_hash for line in lines}
    found = LiveUrl.objects.filter(secret_hash__in=hashes, rental__closed_at=None).defer("secret")
    urls = {url.secret_hash: url for url in found.select_related("rental")}
    lines = [line for line in lines if line.secret_hash in urls]
    keys = [line.key for line in lines]
    known = {event.fetch_key: event for event in AclEvent.objects.filter(fetch_key__in=keys)}
    new, grown = [], []
    for line in lines:
        event = known.get(line.key)
        if event is None:
            new.append(
                AclEvent(
                    rental=urls[line.secret_hash].rental,
                    kind=AclEvent.Kind.FETCHED,
                    version=line.version,
                    file_format=line.file_format,
                    at=line.last_at,
                    last_at=line.last_at,
                    ip=line.ip or None,
                    place=place_of(line.ip),
                    browser=line.browser,
                    count=line.count,
                    fetch_key=line.key,
                )
            )
        elif event.last_at is None or event.last_at < line.last_at:
            # A Redis that lost its data counts anew; what is written stays.
            event.count = max(event.count, line.count)
            event.last_at = line.last_at
            grown.append(event)
    AclEvent.objects.bulk_create(new, ignore_conflicts=True)
    AclEvent.objects.bulk_update(grown, ["count", "last_at"])
    latest = {line.secret_hash: line for line in sorted(lines, key=lambda line: line.last_at)}
    for hashed, line in latest.items():
        LiveUrl.objects.filter(
            Q(last_fetched_at=None) | Q(last_fetched_at__lt=line.last_at), pk=urls[hashed].pk
        ).update(last_fetched_at=line.last_at, last_ip=line.ip or None, last_browser=line.browser)
