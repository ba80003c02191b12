"""How a customer's devices are shown: who is connected, the rules, the lists. It costs the same however many there are."""

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from django.core.paginator import Page, Paginator
from django.db import connection
from django.db.models import Count, Max, Q, QuerySet
from django.db.models.functions import Coalesce
from django.utils.translation import ngettext

from acl.devices.models import Device, DevicePolicy
from acl.devices.presence import Presence, Reading, last_reading
from acl.devices.services.devices import WINDOWS
from acl.devices.services.enrolment import proven_at
from acl.devices.services.places import allows_open, limit_of, window_of
from containers.models import Relay
from derpmgmt.lib.places import place_of
from derpmgmt.lib.prepared import Prepared
from fleet.models import Region
from serials.rentals.models import Rental
from serials.rentals.services import Standing, current_span

# Devices on a page of a list; with more than these there is a search.
ROWS = 25
# Waiting devices that are shown, those on trial among them.
MOST_WAITING = 70
# Connected devices that are left out of the list of approved ones because they stand above it.
_MOST_LEFT_OUT = 1000
# Approved devices among which the old self of a waiting one is looked for.
_MOST_ALIKE = 200
# What relays said before a cut can be over says nothing about who was revoked.
_CUT_TAKES = timedelta(seconds=5)


@dataclass(frozen=True)
class Line:
    """A device as a list shows it: where it is, or was last; `at` is since when it is connected, or when it was last seen.

    `device` is None for who is connected without being known, as on relays that check nobody; `is_on_trial` is who is let in
    until that is decided, at `proven_at` at the earliest, `is_placed` whether it has a place as yet; `is_being_cut` is who is revoked and still connected; `was` is the approved device that a waiting one
    looks like after a new login.
    """

    device: Device | None
    node_key: str
    ip: str
    place: str
    relay: str
    at: datetime | None
    is_connected: bool = False
    is_on_trial: bool = False
    is_placed: bool = False
    is_being_cut: bool = False
    was: Device | None = None
    proven_at: datetime | None = None


@dataclass(frozen=True)
class DeviceState:
    """What stands above the lists. `present` is None when nobody knows who is connected; `until` is the end of the window.

    `silent` are the names of the relays that did not answer: who is connected to them alone is missing from `present`. `connected`
    are those of it that do not stand among the waiting ones; only as many as there are, where no page was asked for. `mark` is
    another one whenever the lists may be. `is_set_up` says that a device came in at some time.
    """

    now: datetime
    policy: DevicePolicy | None
    is_entitled: bool
    limit: int
    used: int
    until: datetime | None
    may_open: bool
    is_set_up: bool
    counts: Mapping[str, int]
    present: Mapping[str, Presence] | None
    silent: tuple[str, ...]
    connected: "Page[Line]"
    mark: str

    @property
    def is_full(self) -> bool:
        """Whether a new device finds no place."""
        return self.used >= self.limit

    @property
    def is_open(self) -> bool:
        """Whether everybody is let in."""
        return self.policy is not None and self.policy.is_open and self.may_open

    @property
    def all_present(self) -> Mapping[str, Presence] | None:
        """Who is connected when every relay has said so, else None: only then is somebody else known to be away."""
        return None if self.silent else self.present

    @property
    def is_moving(self) -> bool:
        """Whether something is likely to change in seconds."""
        return self.until is not None or self.counts["on_trial"] > 0

    @property
    def total(self) -> int:
        """All devices of the rental, whatever their state."""
        return sum(self.counts.values())

    @property
    def has_search(self) -> bool:
        """Whether there are so many devices that one would look for one."""
        return self.total > ROWS

    @property
    def windows(self) -> list[tuple[int, str]]:
        """The windows that may be opened: minutes, and how they are called."""
        found = []
        for length in WINDOWS:
            minutes = int(length.total_seconds() // 60)
            if minutes % 60:
                text = ngettext("%(count)d minute", "%(count)d minutes", minutes) % {"count": minutes}
            else:
                text = ngettext("%(count)d hour", "%(count)d hours", minutes // 60) % {"count": minutes // 60}
            found.append((minutes, text))
        return found

    @property
    def verify_host(self) -> str:
        """The host of the customer's own verify address; the rest may be secret."""
        return masked_url(self.policy.verify_url) if self.policy else ""


@dataclass(frozen=True)
class DeviceLists:
    """The lists below: approved devices that are not connected now, those who wait, those kept out: `revoked` were let in once,
    `refused` never."""

    approved: "Page[Line]"
    waiting: tuple[Line, ...]
    revoked: "Page[Line]"
    refused: "Page[Line]"


_COUNTS = ("approved", "pending", "revoked", "on_trial")
_POLICY = [field.attname for field in DevicePolicy._meta.concrete_fields]
# How many devices there are of each kind, with what the customer decided; no row where there is no device.
_SUMMARY = Prepared(
    lambda rental, now: (
        Device.objects.filter(rental=rental)
        .order_by()
        .values(*(f"rental__device_policy__{name}" for name in _POLICY))
        .annotate(
            approved=Count("pk", filter=Q(status=Device.Status.APPROVED)),
            pending=Count("pk", filter=Device.waiting(now)),
            revoked=Count("pk", filter=Q(status=Device.Status.REVOKED)),
            on_trial=Count("pk", filter=Device.on_trial(now)),
            placed=Count("pk", filter=Device.placed(now)),
            came_in=Count("pk", filter=Device.came_in()),
            newest=Max("pk"),
            trial=Max("trial_until"),
            approved_at=Max("approved_at"),
            revoked_at=Max("revoked_at"),
        )
    )
)


def _summarize(rental: Rental, now: datetime) -> tuple[DevicePolicy | None, dict[str, Any]]:
    """What the customer decided, and the figures of `_SUMMARY`."""
    for row in _SUMMARY.read(rental=rental.pk, now=now):
        decided = [row.pop(f"rental__device_policy__{name}") for name in _POLICY]
        policy = DevicePolicy.from_db(connection.alias, _POLICY, decided) if decided[0] else None
        return policy, row
    nothing = dict.fromkeys((*_COUNTS, "placed", "came_in"), 0) | {"revoked_at": None}
    return DevicePolicy.objects.filter(rental=rental).first(), nothing


def describe_state(
    *, rental: Rental, now: datetime, page: Any = 1, standing: Standing | None = None
) -> DeviceState:
    """Places, rules and who is connected; `page` of the latter, None = only how many. `standing` saves a query to whoever has it."""
    is_entitled = rental.is_entitled(now)
    policy, found = _summarize(rental, now)
    until = window_of(rental, policy)
    span = standing.span if standing else current_span(rental, now)
    reading = last_reading(rental) if is_entitled else None
    present = _present(rental, reading, found["revoked_at"]) if is_entitled else {}
    silent = _names_of(rental, reading.silent) if reading else ()
    asking: frozenset[str] = frozenset()
    if present and page is not None and (found["pending"] or found["on_trial"]):
        # Who waits stands there, connected or not.
        waits = _waiting(Device.objects.filter(rental=rental), now).values_list("node_key", flat=True)
        asking = frozenset(waits[:MOST_WAITING])
    there = present or {}
    shown = sorted(there.keys() - asking, key=lambda key: (-there[key].since.timestamp(), key))
    connected: Page[Any] = Paginator(shown, ROWS).get_page(page or 1)
    if page is not None:
        connected.object_list = _connected(rental, connected.object_list, there)
    seen = repr((sorted(found.items(), key=str), sorted(there), silent, found["on_trial"] and now)).encode()
    return DeviceState(
        now=now,
        policy=policy,
        is_entitled=is_entitled,
        limit=limit_of(rental, span),
        used=found["placed"],
        until=until if is_entitled and until > now else None,
        may_open=allows_open(span),
        is_set_up=found["came_in"] > 0,
        counts={name: found[name] for name in _COUNTS},
        present=present,
        silent=silent,
        connected=connected,
        mark=hashlib.sha256(seen).hexdigest()[:16],
    )


def _present(
    rental: Rental, reading: Reading | None, revoked_at: datetime | None
) -> Mapping[str, Presence] | None:
    """Who is connected, without those who were revoked so lately that they were read before they were cut."""
    if reading is None or not reading.is_known:
        return None
    begin = reading.at - _CUT_TAKES
    if not reading.present or revoked_at is None or revoked_at <= begin:
        return reading.present
    lately = Device.objects.filter(rental=rental, status=Device.Status.REVOKED, revoked_at__gt=begin)
    cut = set(lately.values_list("node_key", flat=True))
    return {key: there for key, there in reading.present.items() if key not in cut}


def _names_of(rental: Rental, relay_pks: Collection[int]) -> tuple[str, ...]:
    if not relay_pks:
        return ()
    return tuple(sorted(name for pk, name in relay_names(rental).items() if pk in relay_pks))


def describe_lists(
    *,
    rental: Rental,
    state: DeviceState,
    words: str = "",
    page: Any = 1,
    revoked_page: Any = 1,
    refused_page: Any = 1,
) -> DeviceLists:
    """The lists below `state`, all of them or only what `words` are found in: name, node key, address.

    Each device stands once on the page: who is connected is left out here, unless it is searched for, or waits.
    """
    found = _search(Device.objects.filter(rental=rental), words)
    relays = relay_names(rental)
    approved = found.filter(status=Device.Status.APPROVED)
    kept_out = found.filter(status=Device.Status.REVOKED).order_by("-revoked_at", "-pk")
    # Nobody is shown above while words are searched for.
    if not words and state.present:
        above = list(state.present)[:_MOST_LEFT_OUT]
        approved, kept_out = approved.exclude(node_key__in=above), kept_out.exclude(node_key__in=above)
    approved = approved.order_by(Coalesce("last_seen_at", "approved_at", "created_at").desc(), "pk")

    def paged(rows: QuerySet[Device], number: Any) -> "Page[Any]":
        part: Page[Any] = Paginator(rows, ROWS).get_page(number)
        part.object_list = [_line(device, relays, state.present) for device in part.object_list]
        return part

    return DeviceLists(
        approved=paged(approved, page),
        waiting=describe_waiting(rental=rental, state=state, devices=found, relays=relays),
        revoked=paged(kept_out.filter(approved_at__isnull=False), revoked_page),
        refused=paged(kept_out.filter(approved_at=None), refused_page),
    )


def _waiting(devices: "QuerySet[Device]", now: datetime) -> "QuerySet[Device]":
    return devices.filter(Device.waiting(now) | Device.on_trial(now)).order_by("-last_seen_at", "-pk")


_WAITING = Prepared(
    lambda most, rental, now: (
        _waiting(Device.objects.filter(rental=rental), now)
        .select_related("last_relay__server__region")
        .defer(*(f"last_relay__{name}" for name in Relay.SECRETS))[:most]
    )
)


def describe_waiting(
    *,
    rental: Rental,
    state: DeviceState,
    devices: "QuerySet[Device] | None" = None,
    relays: Mapping[int, str] | None = None,
    most: int = MOST_WAITING,
) -> tuple[Line, ...]:
    """Those who wait for their customer's word, and those on trial, the latest first."""
    if not state.counts["pending"] and not state.counts["on_trial"]:
        return ()
    if devices is None:
        waiting = _WAITING.read(most, rental=rental.pk, now=state.now)
        relays = {
            device.last_relay_id: _name(
                device.last_relay.server.region, device.last_relay.slot or device.last_relay.return_slot
            )
            for device in waiting
            if device.last_relay
        }
    else:
        waiting = list(_waiting(devices, state.now)[:most])
    relays = relay_names(rental) if relays is None else relays
    # Where it is not known who is connected, none is guessed.
    alike = _alike(rental, waiting) if state.all_present is not None else []
    return tuple(
        replace(
            _line(device, relays, state.present),
            is_on_trial=device.is_on_trial(state.now),
            is_placed=device.is_placed(state.now),
            proven_at=proven_at(device),
            was=old_self(device, alike, state.all_present),
        )
        for device in waiting
    )


def describe_device(*, rental: Rental, state: DeviceState, device: Device) -> Line:
    """One approved device as it stands in its list, or among those that are connected."""
    if state.present and device.node_key in state.present:
        return _connected(rental, [device.node_key], state.present)[0]
    return _line(device, relay_names(rental), state.present)


def describe_holders(*, rental: Rental, state: DeviceState, page: Any = 1) -> "Page[Line]":
    """The approved devices, connected or not, those that were not seen for longest first: one may give its place to another."""
    approved = Device.objects.filter(rental=rental, status=Device.Status.APPROVED)
    seen_at = Coalesce("last_seen_at", "approved_at", "created_at")
    part: Page[Any] = Paginator(approved.order_by(seen_at, "pk"), ROWS).get_page(page)
    relays = relay_names(rental)
    part.object_list = [_line(device, relays, state.present) for device in part.object_list]
    return part


def masked_url(url: str) -> str:
    """Scheme and host of an address whose rest may be secret: `https://hs.example.com/…`; "" for none."""
    if not url:
        return ""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}/…"


def relay_names(rental: Rental) -> dict[int, str]:
    """What the rental's relays, past ones too, are called in the language of the page, by primary key: `Shanghai 2`."""
    rows = Relay.objects.filter(rental=rental).values_list(
        "pk", Coalesce("slot", "return_slot"), "server__region__name_zh", "server__region__name_en"
    )
    return {pk: _name(Region(name_zh=chinese, name_en=english), slot) for pk, slot, chinese, english in rows}


def _name(region: Region, slot: int | None) -> str:
    return " ".join(filter(None, [region.name, str(slot or "")]))


def _connected(rental: Rental, keys: Iterable[str], present: Mapping[str, Presence]) -> list[Line]:
    keys = list(keys)
    if not keys:
        return []
    known = {row.node_key: row for row in Device.objects.filter(rental=rental, node_key__in=keys)}
    relays = relay_names(rental)
    lines = []
    for key in keys:
        device, there = known.get(key), present[key]
        relay = relays.get(there.relay, "")
        is_revoked = device is not None and device.status == Device.Status.REVOKED
        lines.append(
            Line(
                device,
                key,
                there.ip,
                place_of(there.ip),
                relay,
                there.since,
                is_connected=True,
                is_being_cut=is_revoked,
            )
        )
    return lines


def _line(device: Device, relays: Mapping[int, str], present: Mapping[str, Presence] | None) -> Line:
    return Line(
        device,
        device.node_key,
        device.last_ip or "",
        device.last_place,
        relays.get(device.last_relay_id or 0, ""),
        device.last_seen_at,
        is_connected=device.node_key in (present or {}),
    )


def _search(rows: QuerySet[Device], words: str) -> QuerySet[Device]:
    words = words.strip().removeprefix("nodekey:")
    if not words:
        return rows
    return rows.filter(
        Q(name__icontains=words) | Q(node_key__startswith=words.lower()) | Q(last_ip__startswith=words)
    )


def _alike(rental: Rental, waiting: list[Device]) -> list[Device]:
    """Approved devices that share an address or a name with one that waits, those seen last first."""
    ips = {device.last_ip for device in waiting if device.last_ip}
    names = {device.name for device in waiting if device.name}
    approved = Device.objects.filter(rental=rental, status=Device.Status.APPROVED)
    alike = approved.filter(Q(last_ip__in=ips) | Q(name__in=names))
    return list(alike.order_by("-last_seen_at")[:_MOST_ALIKE])


def old_self(device: Device, approved: Iterable[Device], present: Collection[str] | None) -> Device | None:
    """Which approved device a waiting one looks like after a new login, which gives a device another key; None = none.

    One of the same name or at the same address that is not connected (`present`: node keys; None = not known, so none is
    guessed) and was not seen any more once the new key had knocked. The same name counts more, then who was seen last.
    """
    if present is None:
        return None
    since = device.first_seen_at or device.created_at
    alike = [
        other
        for other in approved
        if other.node_key not in present
        and (other.last_seen_at is None or other.last_seen_at <= since)
        and (_is_named_alike(device, other) or (device.last_ip and device.last_ip == other.last_ip))
    ]
    return max(
        alike,
        key=lambda other: (_is_named_alike(device, other), other.last_seen_at or other.created_at),
        default=None,
    )


def _is_named_alike(device: Device, other: Device) -> bool:
    return bool(device.name) and device.name.casefold() == other.name.casefold()
