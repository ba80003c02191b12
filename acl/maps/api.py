"""A customer's map by the JSON API: made, handed out, its history, and the live URL."""

import base64
from typing import Annotated, Any, Literal

from django.utils.translation import gettext as _
from ninja import Query
from pydantic import Field

from accounts.access.auth import ApiRequest
from accounts.access.rooms import Room
from accounts.access.subjects import find_person
from accounts.models import User
from acl.maps import services
from acl.maps.derpmap import MapFormat
from acl.maps.models import AclConfig, AclEvent, LiveUrl
from derpmgmt.lib.address import client_ip
from derpmgmt.lib.api import Answer, Input, Line, Listed, Moment, NotFound, Output, PageQuery, Pk, cut_page
from derpmgmt.lib.limits import consume
from serials.rentals.models import Rental

acl = Room("acl")

_FORMATS = {"json": MapFormat.JSON, "hujson": MapFormat.HUJSON, "headscale": MapFormat.YAML}
Format = Annotated[
    Literal["json", "hujson", "headscale"],
    Field(
        description=(
            "json: the bare DERPMap. hujson: an object with “derpMap”, with comments, to be pasted into a policy file. "
            "headscale: a YAML file for Headscale's derp.paths."
        )
    ),
]
_USER_ID = Field(None, description="Whose, for operators; without it one's own.", examples=[7])
_CODE = Field(
    description=(
        "What this version, or this part of it, is called for `acl/download/{acl_code}`. It is signed and gives no right by itself; it counts "
        "while the version is the newest."
    ),
    examples=["12-3.Qm0vV3lBb2d0…"],
)


class MapVersion(Answer):
    """A version of a map."""

    acl_code: str = _CODE
    version: int = Field(ge=1, examples=[3])
    end: Moment = Field(description="Until when the version is valid, as long as the rental is active.")


class MapGenerated(MapVersion):
    """A version of a map and the map itself."""

    acl: dict[str, Any] = Field(
        description="Tailscale's DERPMap.", examples=[{"Regions": {"901": {"RegionID": 901, "Nodes": []}}}]
    )


class MapGeneration(Input):
    """Whose map, and which part of it."""

    user_id: Pk | None = _USER_ID
    server_ids: list[Pk] = Field(
        default_factory=list,
        max_length=50,
        description=(
            "Only the relays on these servers. Such a part is a copy for one's own use and no version: the panel goes on counting the whole map "
            "as not taken. Empty for the whole map."
        ),
    )


class MapUpdate(Input):
    """Whose map gets a new version."""

    user_id: Pk | None = _USER_ID
    instead_of: int | None = Field(
        None, ge=1, description="Only if this version is still the newest; without it in any case."
    )


class MapEventQuery(PageQuery):
    """Which events of a map."""

    kind: AclEvent.Kind | None = Field(None, description="Only these.")
    version: int | None = Field(None, ge=1, description="The map's version.")


class MapEventLine(Output):
    """What happened to a map. Fetches by the live URL are one event a day for each version, address and program: `count`, `last_at`."""

    event_id: Pk = Field(examples=[40])
    at: Moment = Field(examples=["2026-12-31T08:00:00Z"])
    kind: AclEvent.Kind = Field(description="Only these.")
    version: int | None = Field(description="The map's version.")
    file_format: str = Field(examples=["hujson"])
    reason: str = Field(description="Why, as a sentence; empty for none.")
    by: Literal["customer", "operator", "system", "live_url"]
    by_user_id: Pk | None = Field(
        description="Who it was; null for the system, and to customers for operators."
    )
    ip: str | None = Field(description="From which address.")
    place: str = Field(description="Where that is, as far as known.")
    program: str = Field(description="What the browser or program calls itself.")
    count: int = Field(description="How many times.")
    last_at: Moment | None = Field(description="The last time, where there were several.")


class MapEvents(Listed):
    """What happened to a map, the newest first."""

    events: list[MapEventLine] = Field(description="The page's events.")


class MapDownload(MapVersion):
    """A map as a file."""

    acl_file: str = Field(description="The file's bytes (UTF-8) in base64.")
    file_name: str = Field(examples=["derpmap-v3.hujson"])
    format: Format
    content_type: str = Field(examples=["application/json"])


class MapDownloadQuery(Input):
    """In which form."""

    format: Format = "json"


class LiveUrlState(Answer):
    """The live URL, without its address: that is shown when it is made, and on its page."""

    live_id: Pk | None = Field(description="Null where there is none.")
    created_at: Moment | None = Field(examples=["2026-12-31T08:00:00Z"])
    last_fetched_at: Moment | None = Field(description="Null for never.")
    last_ip: str | None = Field(description="From which address.")
    last_program: str = Field(description="What the program calls itself.")


class LiveUrlMaking(Input):
    """The live URL that the new one replaces."""

    replaces: Pk | None = Field(
        None, description="`live_id` of the one in use, which ends then; null where there is none."
    )


class LiveUrlMade(Answer):
    """A live URL. Whoever has the address reads the map, so it is a secret."""

    live_id: Pk = Field(description="The live URL's id.")
    url: str = Field(
        description="The address; with ?format=headscale as Headscale's file.",
        examples=["https://panel.example.com/live/….json"],
    )


class LiveUrlQuery(Input):
    """Whose live URL."""

    user_id: Pk | None = _USER_ID


def _rental_of(person: User) -> Rental | None:
    return Rental.objects.filter(user=person).first()


def _hand_out(
    request: ApiRequest, rental: Rental | None, file_format: MapFormat, **more: Any
) -> services.MapFile:
    consume(request, group="map", key=str(request.user.pk), rate=services.HAND_OUT_RATE)
    return services.hand_out_map(
        rental=rental,
        file_format=file_format,
        by=request.user,
        ip=client_ip(request),
        browser=request.headers.get("User-Agent", ""),
        **more,
    )


@acl.does("/generate", MapGenerated, creates=True)
def acl_generate(request: ApiRequest, payload: MapGeneration) -> MapGenerated:
    """The map, in its newest version; a new one is made first where the relays, or the end of the last one, call for it.

    It counts as a download. A new version whatever is the case is made by `acl/update`.
    """
    person = find_person(request, payload.user_id, acts=True)
    rental = _rental_of(person)
    if rental is not None:
        services.refresh_map(rental=rental, reason=services.RELAYS_CHANGED, by=request.user)
    file = _hand_out(request, rental, MapFormat.JSON, servers=payload.server_ids)
    return MapGenerated(
        message=_("Version %(version)s of the map.") % {"version": file.config.version},
        acl_code=str(file.code),
        version=file.config.version,
        end=file.config.ends_at,
        acl=file.derp_map,
    )


@acl.does("/update", MapVersion, creates=True)
def acl_update(request: ApiRequest, payload: MapUpdate) -> MapVersion:
    """A new version of the map, valid from now, whether anything differs or not."""
    person = find_person(request, payload.user_id, acts=True)
    consume(request, group="map_renew", key=str(request.user.pk), rate=services.RENEW_RATE)
    config = services.renew_map(
        rental=_rental_of(person), by=request.user, instead_of=payload.instead_of, ip=client_ip(request)
    )
    return _version(config, _("Version %(version)s of the map is made.") % {"version": config.version})


def _version(config: AclConfig, message: str) -> MapVersion:
    return MapVersion(
        message=message,
        acl_code=str(services.MapCode(config.rental_id, config.version)),
        version=config.version,
        end=config.ends_at,
    )


@acl.reads("/logs/{user_id}", MapEvents)
def acl_logs(request: ApiRequest, user_id: Pk, query: Query[MapEventQuery]) -> MapEvents:
    """What happened to somebody's map: versions made and withdrawn, downloads, fetches, refusals."""
    person = find_person(request, user_id)
    rows = AclEvent.objects.visible_to(request.user).filter(rental__user=person)
    if query.kind:
        rows = rows.filter(kind=query.kind)
    if query.version:
        rows = rows.filter(version=query.version)
    found, cursor = cut_page(rows, query, lambda event: _event(event, person, request.user))
    return MapEvents(events=found, next_cursor=cursor)


def _event(event: AclEvent, customer: User, reader: User) -> MapEventLine:
    by: Literal["customer", "operator", "system", "live_url"] = (
        "live_url"
        if event.kind == AclEvent.Kind.FETCHED
        else "system"
        if event.by_id is None
        else "customer"
        if event.by_id == customer.pk
        else "operator"
    )
    return MapEventLine(
        event_id=event.pk,
        at=event.at,
        kind=AclEvent.Kind(event.kind),
        version=event.version,
        file_format=event.file_format,
        reason=event.reason_text,
        by=by,
        by_user_id=event.by_id if by == "customer" or reader.is_staff else None,
        ip=event.ip,
        place=event.place,
        program=event.browser,
        count=event.count,
        last_at=event.last_at,
    )


def _download(
    request: ApiRequest, rental: Rental | None, form: Literal["json", "hujson", "headscale"], **more: Any
) -> MapDownload:
    file = _hand_out(request, rental, _FORMATS[form], **more)
    return MapDownload(
        message=_("Version %(version)s of the map.") % {"version": file.config.version},
        acl_code=str(file.code),
        version=file.config.version,
        end=file.config.ends_at,
        acl_file=base64.b64encode(file.text.encode()).decode(),
        file_name=file.name,
        format=form,
        content_type=file.content_type,
    )


@acl.reads("/download/by_name/{username}", MapDownload)
def acl_download_by_name(request: ApiRequest, username: Line, query: Query[MapDownloadQuery]) -> MapDownload:
    """The newest version of somebody's map as a file, by their user name; it stands in the map's history."""
    person = User.objects.visible_to(request.user).filter(username=username.lower()).first()
    if person is None:
        raise NotFound
    return _download(request, _rental_of(person), query.format)


@acl.reads("/download/{acl_code}", MapDownload)
def acl_download(request: ApiRequest, acl_code: Line, query: Query[MapDownloadQuery]) -> MapDownload:
    """The map that a code names as a file, as long as its version is the newest; it stands in the map's history."""
    try:
        code = services.MapCode.read(acl_code)
    except LookupError:
        raise NotFound(field="acl_code") from None
    rental = Rental.objects.visible_to(request.user).filter(pk=code.rental).first()
    if rental is None:
        raise NotFound(field="acl_code")
    return _download(request, rental, query.format, code=code)


# The live URL


def _live_of(person: User) -> LiveUrl | None:
    return LiveUrl.objects.filter(rental__user=person, revoked_at=None).defer("secret").first()


@acl.reads("/live", LiveUrlState)
def acl_live(request: ApiRequest, query: Query[LiveUrlQuery]) -> LiveUrlState:
    """Whether there is a live URL, and when it was fetched last."""
    url = _live_of(find_person(request, query.user_id))
    return LiveUrlState(
        live_id=url.pk if url else None,
        created_at=url.created_at if url else None,
        last_fetched_at=url.last_fetched_at if url else None,
        last_ip=url.last_ip if url else None,
        last_program=url.last_browser if url else "",
    )


@acl.does("/live", LiveUrlMade, creates=True)
def acl_live_make(request: ApiRequest, payload: LiveUrlMaking) -> LiveUrlMade:
    """Make one's own live URL, or another in the place of the one there is."""
    consume(request, group="live_url", key=str(request.user.pk), rate=services.RENEW_RATE)
    rental = _rental_of(request.user)
    if rental is None:
        raise services.DownloadRefused("no_rental")
    url = services.create_live_url(
        rental=rental, by=request.user, instead_of=payload.replaces, ip=client_ip(request)
    )
    return LiveUrlMade(message=_("The live URL is made."), live_id=url.pk, url=services.live_address(url))


@acl.does("/live", Answer, method="DELETE")
def acl_live_revoke(request: ApiRequest, query: Query[LiveUrlQuery]) -> Answer:
    """End the live URL at once and for good."""
    url = _live_of(find_person(request, query.user_id, acts=True))
    if url is None:
        raise NotFound
    if not services.revoke_live_url(url=url, by=request.user, ip=client_ip(request)):
        raise services.ChangedMeanwhile
    return Answer(message=_("The live URL is revoked."))
