"""The hot path of live URLs: `/live/<secret>.json` is answered here, before any other middleware.

Headscale, which polls it, does not look at the status: any JSON object without regions empties its map, and text that is not
JSON makes it keep the map it has (hscontrol/derp/derp.go). So an ended rental is answered with an empty map, and whatever
passes (limits, failures) with plain text. With `?format=headscale` the same is answered as the file that Headscale reads from
`derp.paths`; who fetches that looks at the status. Order of sources: the copy in Redis, the database, the copy on disk. A copy
knows when the regions of its rental are let go (`acl.maps.services.regions`), so it stops then even when nothing else runs.
"""

import hashlib
import logging
import re
import threading
from collections.abc import Callable

from django.db import Error as DatabaseError
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.http import parse_etags, quote_etag
from django.utils.translation import gettext as _

from acl.maps import copies, derpmap
from acl.maps.copies import Copy
from acl.maps.derpmap import MapFormat
from acl.maps.services.live_urls import PREFIX, read_copy, secret_hash
from derpmgmt.lib.address import client_ip, client_network
from derpmgmt.lib.lines import one_line

log = logging.getLogger(__name__)

_ADDRESS = re.compile(rf"{PREFIX}([A-Za-z0-9_-]{{32}})\.json")
# What `?format=` may say, and the form that it means; "json" is the form without it.
_FORMATS = {"": MapFormat.JSON, "json": MapFormat.JSON, "headscale": MapFormat.YAML}
# An older copy is read again from the database: should the bell of a change be lost, so long it lasts at most.
_READ_AGAIN_SECONDS = 60
# Whoever reads through a cache of their own gets the news as late as this, in seconds.
_MAX_AGE = 5

# One request of a process reads an old copy again; the others are served meanwhile, also when the database hangs.
_reading = threading.Lock()


class LiveMiddleware:
    """Answers live URLs without session, language, CSRF or anything else that needs more than it; the first middleware."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        # Who joins the panel's address and the path gets two slashes easily; that address holds the secret as well.
        path = f"/{request.path_info.lstrip('/')}"
        if not path.startswith(PREFIX):
            return self.get_response(request)
        try:
            response = _answer(request, path)
        except Exception:
            log.exception("a live URL could not be answered")
            response = _failure(503)
        if response.status_code != 304:
            response.headers["Content-Length"] = str(len(response.content))
        if request.method == "HEAD":
            response.content = b""
        # Django writes the path of every refusal to the log, and here the path is the secret: tell it that this is done.
        response._has_been_logged = True  # type: ignore[attr-defined]
        return response


def _text(status: int, sentence: str, **headers: str) -> HttpResponse:
    common = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return HttpResponse(
        f"{sentence}\n", content_type="text/plain; charset=utf-8", status=status, headers=common | named
    )


def _failure(status: int) -> HttpResponse:
    return _text(status, _("The map cannot be read at the moment. Keep the one you have."), Retry_After="10")


def _unknown() -> HttpResponse:
    return _text(404, _("There is no map under this address. It was revoked, or never given."))


def _answer(request: HttpRequest, path: str) -> HttpResponse:
    if request.method not in {"GET", "HEAD"}:
        return _text(405, _("This address can only be read."), Allow="GET, HEAD")
    match = _ADDRESS.fullmatch(path)
    if match is None:
        return _unknown()
    file_format = _FORMATS.get(request.GET.get("format", ""))
    if file_format is None:
        return _text(400, _("This format is not known. There are: format=headscale, and JSON without it."))
    hashed, now = secret_hash(match[1]), timezone.now()
    seen = copies.glance(hashed, client_network(request), now)
    if seen and (seen.of_address > copies.PER_ADDRESS or (seen.copy and seen.of_url > copies.PER_URL)):
        wait = str(copies.wait_seconds(now))
        return _text(429, _("Too many requests. Keep the map you have."), Retry_After=wait)
    copy = seen.copy if seen else None
    moment = now.timestamp()
    if copy is None or not 0 <= moment - copy.read_at < _READ_AGAIN_SECONDS:
        try:
            copy = _read_again(hashed, copy)
        except LookupError:
            return _unknown()
    if copy is None:
        return _failure(503)
    if copy.is_revoked:
        return _unknown()
    version, is_over = copy.version, copy.counts_until is not None and copy.counts_until <= moment
    if is_over:
        version = None
    elif copy.lapses_at is not None and copy.lapses_at <= moment:
        return _failure(503)
    if file_format is MapFormat.YAML:
        body = derpmap.to_headscale_file(derpmap.EMPTY_MAP) if is_over else copy.file
    else:
        body = derpmap.to_json(derpmap.EMPTY_MAP) if is_over else copy.body
    if seen:
        copies.record_fetch(
            hashed,
            seen,
            version=version,
            ip=client_ip(request),
            browser=one_line(request.headers.get("User-Agent", ""))[:200],
            file_format=file_format.value,
        )
    return _map(request, body, file_format)


def _read_again(hashed: str, copy: Copy | None) -> Copy | None:
    """The newest copy there is; None when all that could know is away. Raises `LookupError` for an unknown URL."""
    if copies.database_rest.is_on:
        return copy or copies.read_file(hashed)
    if copy and not _reading.acquire(blocking=False):
        return copy
    try:
        fresh = read_copy(hashed)
    except DatabaseError as error:
        log.warning("live URLs are served from copies, the database is away: %s", type(error).__name__)
        copies.database_rest.begin()
        return copy or copies.read_file(hashed)
    finally:
        if copy:
            _reading.release()
    if fresh is None:
        raise LookupError
    copies.keep(hashed, fresh)
    return fresh


def _map(request: HttpRequest, body: str, file_format: MapFormat) -> HttpResponse:
    etag = quote_etag(hashlib.sha256(body.encode()).hexdigest()[:32])
    headers = {
        "ETag": etag,
        "Cache-Control": f"private, max-age={_MAX_AGE}",
        "X-Content-Type-Options": "nosniff",
    }
    known = parse_etags(request.headers.get("If-None-Match", ""))
    if "*" in known or etag in known or f"W/{etag}" in known:
        response = HttpResponse(status=304, headers=headers)
        del response.headers["Content-Type"]
        return response
    return HttpResponse(body, content_type=derpmap.CONTENT_TYPES[file_format], headers=headers)
