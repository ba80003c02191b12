"""The map of a customer's relays, and the forms in which it is handed out. Pure: no database, no clock.

The map is Tailscale's `DERPMap` (tailcfg/derpmap.go) as JSON. A relay is known by its address and by the SHA-256 of its
certificate (`CertName: sha256-raw:<hex>`), which clients understand from 1.84 on; certificate checks are never turned off.
The comments inside the texts are in the language that is active when they are written.
"""

import ipaddress
import json
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import yaml
from django.utils.translation import gettext as _

from derpmgmt.lib.lines import one_line

FIRST_REGION_ID, LAST_REGION_ID = 900, 999
OLDEST_CLIENT = "1.84"
# What Headscale's configuration names as the map of Tailscale's own relays; without any map it does not start.
DEFAULT_MAP_URL = "https://controlplane.tailscale.com/derpmap/default"
# From this version on Headscale keeps its map when an address fails (and does not start then); before, it loses regions.
HEADSCALE_KEEPS_SINCE = "0.27"
# Where the texts advise to put Headscale's file.
HEADSCALE_PATH = "/etc/headscale/private-derp.yaml"
CRON_PATH = "/etc/cron.d/private-derp"
# What whoever reads a map gets when there is none: every reader takes our regions out and keeps those of others.
EMPTY_MAP: dict[str, Any] = {"Regions": {}}

_PIN = re.compile(r"[0-9a-f]{64}")


class MapFormat(StrEnum):
    """The forms of the map; the value is the file's ending."""

    HUJSON = "hujson"
    YAML = "yaml"
    JSON = "json"


CONTENT_TYPES = {
    MapFormat.HUJSON: "text/plain; charset=utf-8",
    MapFormat.YAML: "application/yaml; charset=utf-8",
    MapFormat.JSON: "application/json",
}


@dataclass(frozen=True)
class MapNode:
    """One relay: a region of its own with one node.

    `region_id` is 900–999. `code` and `name` are the place's ("sh", "上海"); `number`, different for each relay of a map, is
    added to both. `latitude` and `longitude` are degrees, None when unknown. `address` is IPv4, the ports are those of
    the host (DERP on TCP, STUN on UDP), `certificate_sha256` the certificate's pin (64 lowercase hex digits).
    """

    region_id: int
    number: int
    code: str
    name: str
    latitude: float | None
    longitude: float | None
    address: str
    derp_port: int
    stun_port: int
    certificate_sha256: str


def region_name(place: str, number: int) -> str:
    """What `tailscale netcheck` prints for a region: "上海 1"."""
    return f"{one_line(place)} {number}".strip()


def region_code(place: str, number: int) -> str:
    """The short form: "sh1". Its last digits are always the number, so different numbers give different codes."""
    place = re.sub(r"[^A-Za-z0-9-]", "", place)
    return f"{place}{'-' if place[-1:].isdigit() else ''}{number}"


def _region(node: MapNode) -> dict[str, Any]:
    if not FIRST_REGION_ID <= node.region_id <= LAST_REGION_ID:
        raise ValueError(f"region ID {node.region_id} is not from {FIRST_REGION_ID} to {LAST_REGION_ID}")
    if not _PIN.fullmatch(node.certificate_sha256):
        raise ValueError(f"region {node.region_id}: the certificate's pin is not 64 lowercase hex digits")
    for port in (node.derp_port, node.stun_port):
        if not 1 <= port <= 65535:
            raise ValueError(f"region {node.region_id}: {port} is no port")
    address = str(ipaddress.IPv4Address(node.address))
    region: dict[str, Any] = {
        "RegionID": node.region_id,
        "RegionCode": region_code(node.code, node.number),
        "RegionName": region_name(node.name, node.number),
    }
    if node.latitude is not None and node.longitude is not None:
        region |= {"Latitude": node.latitude, "Longitude": node.longitude}
    region["Nodes"] = [
        {
            "Name": f"{node.region_id}a",
            "RegionID": node.region_id,
            "HostName": address,
            "CertName": f"sha256-raw:{node.certificate_sha256}",
            "IPv4": address,
            "STUNPort": node.stun_port,
            "DERPPort": node.derp_port,
        }
    ]
    return region


def build_map(nodes: Iterable[MapNode]) -> dict[str, Any]:
    """The `DERPMap` of these relays, regions in the order of their IDs.

    IPv6 is left out, and so is `OmitDefaultRegions`: with it, the end of a rental would cut a whole tailnet off. Raises
    ValueError for a region ID outside 900–999 or given twice, a bad address, port or pin.
    """
    regions: dict[str, Any] = {}
    for node in sorted(nodes, key=lambda node: node.region_id):
        if str(node.region_id) in regions:
            raise ValueError(f"region ID {node.region_id} is given twice")
        regions[str(node.region_id)] = _region(node)
    return {"Regions": regions}


def part_of(derp_map: dict[str, Any], regions: Collection[int]) -> dict[str, Any]:
    """The map with these regions (IDs) alone."""
    wanted = {str(region) for region in regions}
    return {"Regions": {key: region for key, region in derp_map["Regions"].items() if key in wanted}}


# Region ID, address, TCP port, UDP port, pin: what a client needs to reach a relay.
Way = tuple[int, str, int, int, str]


def ways(derp_map: dict[str, Any]) -> set[Way]:
    """How a map leads to its relays. Two maps with the same ways differ in names only: nobody has to paste again."""
    return {
        (
            node["RegionID"],
            node["IPv4"],
            node["DERPPort"],
            node["STUNPort"],
            node["CertName"].removeprefix("sha256-raw:"),
        )
        for region in derp_map["Regions"].values()
        for node in region["Nodes"]
    }


@dataclass(frozen=True)
class Change:
    """How one region of a map differs from an older version: `kind` is "added", "removed" or "moved" (its relay has another
    address, port or certificate)."""

    kind: str
    region_id: int
    name: str


def compare_maps(old: dict[str, Any], new: dict[str, Any]) -> tuple[Change, ...]:
    """What leads elsewhere in `new` than in `old`, in the order of the region IDs; names alone do not count."""
    ways_of = [
        {way[0]: (way, derp_map["Regions"][str(way[0])]["RegionName"]) for way in ways(derp_map)}
        for derp_map in (old, new)
    ]
    before, after = ways_of
    changes = []
    for region_id in sorted(before.keys() | after.keys()):
        if region_id not in before:
            changes.append(Change("added", region_id, after[region_id][1]))
        elif region_id not in after:
            changes.append(Change("removed", region_id, before[region_id][1]))
        elif before[region_id][0] != after[region_id][0]:
            changes.append(Change("moved", region_id, after[region_id][1]))
    return tuple(changes)


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)


def _comment(mark: str, lines: Iterable[str]) -> str:
    return "".join(f"{mark} {one_line(line)}\n" for line in lines)


def _common_comments(version: int, ends_at: datetime, brand: str) -> list[str]:
    moment = ends_at.isoformat(" ", "minutes")
    return [
        _("Your private DERP relays (%(brand)s), map version %(version)s.")
        % {"brand": brand, "version": version},
        _(
            "Valid until %(moment)s, as long as your rental is active; take the next version from the panel then."
        )
        % {"moment": moment},
        _(
            "Every device needs Tailscale %(oldest)s or newer: older ones do not understand the certificate pins (CertName)."
        )
        % {"oldest": OLDEST_CLIENT},
    ]


def to_hujson_key(derp_map: dict[str, Any], *, version: int, ends_at: datetime, brand: str) -> str:
    """The key `"derpMap"` with a comma behind it, to be pasted into an existing policy file right after its first `{`.

    There the comma is right whatever follows: HuJSON allows it before `}` too. `ends_at` is printed in its own time zone;
    `brand` says whose relays these are.
    """
    comments = [
        *_common_comments(version, ends_at, brand),
        _("Paste into: Tailscale admin console > Access controls > JSON editor, right after the first {"),
        _('If your file has a "derpMap" already: replace it, or add these regions to its "Regions".'),
        _(
            "Do not set OmitDefaultRegions to true: "
            "Tailscale's own relays could then not help out, and your devices would lose each other when the rental ends."
        ),
    ]
    return f'{_comment("//", comments)}"derpMap": {_dump(derp_map)},\n'


def to_hujson(derp_map: dict[str, Any], *, version: int, ends_at: datetime, brand: str) -> str:
    """A file of its own: an object with `"derpMap"`. It opens with the warning that it does not replace a policy file."""
    warning = _comment(
        "//",
        [
            _("Not a complete policy file! Do not replace yours with it: your access rules would be gone."),
            _("Copy the lines between the first { and the last } into your file, right after its first {"),
        ],
    )
    key = to_hujson_key(derp_map, version=version, ends_at=ends_at, brand=brand)
    return f"{warning}{{\n{''.join(f'  {line}' for line in key.splitlines(keepends=True))}}}\n"


def to_headscale_yaml(derp_map: dict[str, Any], *, version: int, ends_at: datetime, brand: str) -> str:
    """The map as a file for Headscale's `derp.paths`: keys in lower case, region IDs as numbers."""
    comments = [
        *_common_comments(version, ends_at, brand),
        _("Save as %(path)s, name it in Headscale's config.yaml under derp: paths:, and restart Headscale.")
        % {"path": HEADSCALE_PATH},
        _("Keep the default address under derp: urls: (%(url)s): without any relay Headscale does not start.")
        % {"url": DEFAULT_MAP_URL},
    ]
    return _comment("#", comments) + to_headscale_file(derp_map)


def to_headscale_file(derp_map: dict[str, Any]) -> str:
    """The bare map as Headscale reads it from `derp.paths`: YAML, keys in lower case, region IDs as numbers.

    Keys with capitals, as in Tailscale's JSON, would be an empty map to it, without an error.
    """
    regions = {
        region["RegionID"]: _lower(region) | {"nodes": [_lower(node) for node in region["Nodes"]]}
        for region in derp_map["Regions"].values()
    }
    return yaml.safe_dump({"regions": regions}, allow_unicode=True, sort_keys=False, width=1000)


def _lower(fields: dict[str, Any]) -> dict[str, Any]:
    return {key.lower(): value for key, value in fields.items()}


def to_json(derp_map: dict[str, Any]) -> str:
    """The map itself as JSON."""
    return _dump(derp_map) + "\n"


def render_map(
    derp_map: dict[str, Any], file_format: MapFormat, *, version: int, ends_at: datetime, brand: str
) -> str:
    """The map as a file in `file_format`; `brand` says in its comments whose relays these are."""
    if file_format is MapFormat.HUJSON:
        return to_hujson(derp_map, version=version, ends_at=ends_at, brand=brand)
    if file_format is MapFormat.YAML:
        return to_headscale_yaml(derp_map, version=version, ends_at=ends_at, brand=brand)
    return to_json(derp_map)


# How often the text advises Headscale to ask: a relay that moved is found again within this time.
UPDATE_FREQUENCY = "30s"


def _headscale_config(**sources: list[str]) -> str:
    derp = {**sources, "auto_update_enabled": True, "update_frequency": UPDATE_FREQUENCY}
    return yaml.safe_dump({"derp": derp}, sort_keys=False, width=1000)


def to_headscale_file_config() -> str:
    """The lines of Headscale's config.yaml that make it follow the file that `to_headscale_timer` keeps, Tailscale's own map kept.

    It reads the file anew with each update; one of the file's regions beats the same of an address.
    """
    return _headscale_config(urls=[DEFAULT_MAP_URL], paths=[HEADSCALE_PATH])


def to_headscale_timer(address: str) -> str:
    """Five lines for /etc/cron.d that fetch the map from `address` each minute and keep the last good one.

    Only a successful answer that is a map takes the place of the file before, in one step; passing failures are text.
    """
    return (
        f"# {CRON_PATH}\n"
        "SHELL=/bin/sh\n"
        f"MAP={HEADSCALE_PATH}\n"
        f"URL={address}?format=headscale\n"
        '* * * * * root umask 022; curl -fsS -m 30 -o $MAP.new "$URL" && grep -q "^regions:" $MAP.new && mv $MAP.new $MAP\n'
    )


def to_headscale_config(address: str) -> str:
    """The lines of Headscale's config.yaml that make it follow the map behind `address`, Tailscale's own map kept.

    Ours stands first: before 0.27 Headscale stops at the first address that fails, and loses what stands behind it.
    """
    return _headscale_config(urls=[address, DEFAULT_MAP_URL])
