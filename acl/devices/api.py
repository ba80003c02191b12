"""A customer's devices by the JSON API: who may use their relays, who asked, and what a relay would be told."""

from datetime import timedelta
from typing import Any, Literal

from django.core.exceptions import ValidationError
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext as _
from ninja import Query
from pydantic import Field

from accounts.access.auth import ApiRequest
from accounts.access.models import Scope
from accounts.access.rooms import Room
from accounts.access.subjects import ask_scope, find_person
from acl.devices import services
from acl.devices.forms import PasteForm
from acl.devices.models import Device, DevicePolicy
from acl.devices.node_keys import NewDevice
from acl.devices.presence import ask_presence, last_reading
from acl.devices.sentences import say_added, say_approved, say_left_out
from containers.derp.keys import format_node_key
from derpmgmt.lib.address import client_ip
from derpmgmt.lib.api import Answer, Input, Line, Listed, Moment, NotFound, Output, PageQuery, Pk, cut_page
from derpmgmt.lib.limits import consume
from serials.rentals.models import Rental

device = Room("device")

USER_ID = Field(None, description="Whose, for operators; without it one's own.", examples=[7])
NODE_KEY = "nodekey:" + "0f" * 32


class DeviceLine(Output):
    """A device, known by its node key; one that logs in again has another key."""

    device_id: Pk = Field(examples=[5])
    node_key: str = Field(examples=[NODE_KEY])
    name: str = Field(description="What its customer calls it; may be empty.")
    status: Device.Status = Field(description="pending waits for its customer's word, or is on trial.")
    source: str = Field(
        description="How it came in: pasted, enrolled, approved, verify-url; empty before that."
    )
    is_on_trial: bool = Field(description="Whether it is let in until it is decided about it.")
    is_connected: bool | None = Field(
        description="Whether it is at one of the relays now; null where that is not known."
    )
    knocks: int = Field(description="How often it asked to be let in.")
    first_seen_at: Moment | None = Field(description="When it first asked to be let in.")
    last_seen_at: Moment | None = Field(description="When it last asked to be let in.")
    last_ip: str | None = Field(description="From which address.")
    place: str = Field(description="Where that is, as far as known.")
    container_id: Pk | None = Field(description="The relay at which it was seen last.")
    approved_at: Moment | None = Field(examples=["2026-12-31T08:00:00Z"])
    revoked_at: Moment | None = Field(examples=["2026-12-31T08:00:00Z"])


class DeviceQuery(PageQuery):
    """Which devices."""

    user_id: Pk | None = USER_ID
    status: Device.Status | None = Field(None, description="Only these.")
    q: Line = Field("", description="Words in the name, or the beginning of the node key or of the address.")


class Devices(Listed):
    """Devices, the newest first, and how many there may be."""

    devices: list[DeviceLine] = Field(description="The page's devices.")
    device_limit: int = Field(
        description="How many devices the rental has places for; 0 when it has no time."
    )
    places_used: int = Field(description="How many places are taken.")
    window_until: Moment | None = Field(
        description="Until when new devices are approved by themselves; null for no longer."
    )
    is_checked: bool = Field(description="Whether relays ask about devices at all; else everybody gets in.")


class DeviceAddition(Input):
    """Devices by their node keys, or a text that names them: the output of `tailscale status --json`, or keys one a line."""

    user_id: Pk | None = USER_ID
    node_keys: list[Line] = Field(default_factory=list, max_length=2000, examples=[[NODE_KEY]])
    text: str = Field(
        "", max_length=1_000_000, description="Instead of `node_keys`: what a person would paste."
    )


class DevicesAdded(Answer):
    """What became of the devices that were named."""

    added: list[DeviceLine] = Field(description="Those that are approved now.")
    known: list[DeviceLine] = Field(description="Approved before.")
    revoked: list[DeviceLine] = Field(
        description="Left out because they are revoked; name one alone to approve it again."
    )
    left_out: list[str] = Field(description="Node keys for which there was no place.")


class DeviceApproval(Input):
    """Which device gives its place, where one logged in again under another key."""

    replaces: Pk | None = Field(
        None, description="`device_id` of the old self: it is revoked, and its name goes over."
    )


class DeviceRenaming(Input):
    """Another name; empty for none."""

    name: Line = Field(max_length=63, description="The new name.")


class DeviceChanged(Answer):
    """A device as it is now."""

    device: DeviceLine


class DevicesOf(Input):
    """Whose devices."""

    user_id: Pk | None = USER_ID


class DeviceWindowOpening(DevicesOf):
    """For how long new devices are approved by themselves."""

    minutes: Literal[10, 60, 240] = 10


class DeviceWindow(Answer):
    """Whether new devices are approved by themselves."""

    window_until: Moment | None = Field(description="Until when; null where they are not.")


def _line(row: Device, now: Any, present: Any = None) -> DeviceLine:
    return DeviceLine(
        device_id=row.pk,
        node_key=format_node_key(row.node_key),
        name=row.name,
        status=Device.Status(row.status),
        source=row.source,
        is_on_trial=row.is_on_trial(now),
        is_connected=None if present is None else row.node_key in present,
        knocks=row.knocks,
        first_seen_at=row.first_seen_at,
        last_seen_at=row.last_seen_at,
        last_ip=row.last_ip,
        place=row.last_place,
        container_id=row.last_relay_id,
        approved_at=row.approved_at,
        revoked_at=row.revoked_at,
    )


def rental_of(request: ApiRequest, user_id: int | None, *, acts: bool = False) -> Rental:
    """The rental of whoever asks, or of somebody they may see. Raises `NotFound` where there is none."""
    person = find_person(request, user_id, acts=acts)
    rental = Rental.objects.select_related("user").filter(user=person).first()
    if rental is None:
        raise NotFound(_("There is no rental yet: redeem a serial number first."))
    return rental


def _device(request: ApiRequest, device_id: int) -> Device:
    """A device that whoever asks may change. Raises `NotFound`."""
    row = Device.objects.visible_to(request.user).select_related("rental__user").filter(pk=device_id).first()
    if row is None:
        raise NotFound
    if row.rental.user_id != request.user.pk:
        ask_scope(request, Scope.OPERATE)
    return row


def _answer(row: Device, message: str) -> DeviceChanged:
    return DeviceChanged(message=message, device=_line(Device.objects.get(pk=row.pk), timezone.now()))


@device.reads("/list", Devices)
def device_list(request: ApiRequest, query: Query[DeviceQuery]) -> Devices:
    """The devices of a rental: approved, revoked, waiting, on trial."""
    rental, now = rental_of(request, query.user_id), timezone.now()
    if rental.is_entitled(now):
        ask_presence(rental_pk=rental.pk)
    reading = last_reading(rental)
    present = reading.present if reading and reading.is_known and not reading.silent else None
    shown = (
        Q(status__in=[Device.Status.APPROVED, Device.Status.REVOKED])
        | Device.waiting(now)
        | Device.on_trial(now)
    )
    rows = Device.objects.filter(shown, rental=rental)
    if query.status:
        rows = rows.filter(status=query.status)
    if words := query.q.strip().removeprefix("nodekey:"):
        rows = rows.filter(
            Q(name__icontains=words) | Q(node_key__startswith=words.lower()) | Q(last_ip__startswith=words)
        )
    policy = DevicePolicy.objects.filter(rental=rental).first()
    until = services.window_until(rental, policy)
    found, cursor = cut_page(rows, query, lambda row: _line(row, now, present))
    return Devices(
        devices=found,
        next_cursor=cursor,
        device_limit=services.device_limit(rental, now),
        places_used=services.placed(rental, now).count(),
        window_until=until if until > now and rental.is_entitled(now) else None,
        is_checked=not services.lets_all_in(rental, now),
    )


@device.does("/add", DevicesAdded, creates=True)
def device_add(request: ApiRequest, payload: DeviceAddition) -> DevicesAdded:
    """Approve devices by their node keys, as many as there are places for."""
    consume(request, group="device_paste", key=str(request.user.pk), rate=services.PASTE_RATE)
    rental = rental_of(request, payload.user_id, acts=True)
    if bool(payload.node_keys) == bool(payload.text):
        raise services.DeviceRefused(_("Send either node_keys or text."), code="invalid", field="node_keys")
    form = PasteForm({"text": payload.text or "\n".join(payload.node_keys)})
    if not form.is_valid():
        field = "text" if payload.text else "node_keys"
        raise ValidationError({field: [str(error) for error in form.errors["text"]]})
    named: list[NewDevice] = form.cleaned_data["text"]
    added = services.add_devices(rental=rental, devices=named, by=request.user, ip=client_ip(request))
    now = timezone.now()
    said = [text for _level, text in say_added(added)] + [say_left_out(added)]
    return DevicesAdded(
        message=" ".join(filter(None, said)),
        added=[_line(row, now) for row in added.added],
        known=[_line(row, now) for row in added.known],
        revoked=[_line(row, now) for row in added.revoked],
        left_out=[format_node_key(one.node_key) for one in added.left_out],
    )


@device.does("/{device_id}/approve", DeviceChanged)
def device_approve(request: ApiRequest, device_id: Pk, payload: DeviceApproval) -> DeviceChanged:
    """Let a device in that waits or was revoked; with `replaces` in the place of that one."""
    row = _device(request, device_id)
    old = _device(request, payload.replaces) if payload.replaces else None
    row = services.approve_device(device=row, by=request.user, replaces=old, ip=client_ip(request))
    return _answer(row, say_approved(row, is_replacing=old is not None))


@device.does("/{device_id}/ignore", DeviceChanged)
def device_ignore(request: ApiRequest, device_id: Pk) -> DeviceChanged:
    """Keep a device out that waits, and do not ask about it again."""
    row = _device(request, device_id)
    if not services.ignore_device(device=row, by=request.user, ip=client_ip(request)):
        raise services.NotWaiting
    return _answer(row, _("%(device)s stays out. You find it among the revoked ones.") % {"device": row})


@device.does("/{device_id}/revoke", DeviceChanged)
def device_revoke(request: ApiRequest, device_id: Pk) -> DeviceChanged:
    """Keep a device out and cut its connections; harmless for one that is revoked."""
    row = _device(request, device_id)
    if services.revoke_device(device=row, by=request.user, ip=client_ip(request)):
        return _answer(
            row,
            _("%(device)s is revoked, and its connections are being cut. It stays out.") % {"device": row},
        )
    if not Device.objects.filter(pk=row.pk).exists():
        raise NotFound
    return _answer(row, _("This device is revoked already."))


@device.does("/{device_id}/rename", DeviceChanged)
def device_rename(request: ApiRequest, device_id: Pk, payload: DeviceRenaming) -> DeviceChanged:
    """Give a device another name."""
    row = _device(request, device_id)
    services.rename_device(device=row, name=payload.name, by=request.user, ip=client_ip(request))
    return _answer(row, "")


@device.does("/window/open", DeviceWindow)
def device_window_open(request: ApiRequest, payload: DeviceWindowOpening) -> DeviceWindow:
    """Approve new devices by themselves for a while."""
    until = services.open_window(
        rental=rental_of(request, payload.user_id, acts=True),
        length=timedelta(minutes=payload.minutes),
        by=request.user,
        ip=client_ip(request),
    )
    return DeviceWindow(
        message=_("New devices are approved by themselves now: switch Tailscale off and on there."),
        window_until=until,
    )


@device.does("/window/close", DeviceWindow)
def device_window_close(request: ApiRequest, payload: DevicesOf) -> DeviceWindow:
    """Approve no new device by itself any more."""
    rental = rental_of(request, payload.user_id, acts=True)
    services.close_window(rental=rental, by=request.user, ip=client_ip(request))
    return DeviceWindow(message=_("New devices wait for your approval again."), window_until=None)
