import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.utils import translation
from hypothesis import given
from hypothesis import strategies as st

from acl.maps import derpmap
from acl.maps.derpmap import MapFormat, MapNode, build_map
from tests.acl.maps.hujson import parse_hujson

GOLDEN = Path(__file__).parent / "golden"
SHANGHAI = MapNode(901, 1, "sh", "上海", 31.23, 121.47, "203.0.113.1", 20000, 20001, "ab" * 32)
GUANGZHOU = MapNode(902, 2, "gz", "广州", None, None, "203.0.113.2", 20002, 20003, "cd" * 32)
NODES = [GUANGZHOU, SHANGHAI]
LABELS: dict[str, Any] = {
    "brand": "derpmgmt",
    "version": 3,
    "ends_at": datetime(2026, 12, 24, 21, 30, tzinfo=timezone(timedelta(hours=8))),
}
# Ends of lines, comments and quotes in every form that one of the formats knows.
HOSTILE = 'a"b\n}, "acls": [] // */ \r# x: "y"\u2028\u2029\x85\x0b\x00- z: !t &a\u202e'


@pytest.fixture(autouse=True)
def _english() -> Iterator[None]:
    with translation.override("en"):
        yield


def test_map_is_what_clients_read_when_built() -> None:
    assert build_map(NODES) == {
        "Regions": {
            "901": {
                "RegionID": 901,
                "RegionCode": "sh1",
                "RegionName": "上海 1",
                "Latitude": 31.23,
                "Longitude": 121.47,
                "Nodes": [
                    {
                        "Name": "901a",
                        "RegionID": 901,
                        "HostName": "203.0.113.1",
                        "CertName": "sha256-raw:" + "ab" * 32,
                        "IPv4": "203.0.113.1",
                        "STUNPort": 20001,
                        "DERPPort": 20000,
                    }
                ],
            },
            "902": {
                "RegionID": 902,
                "RegionCode": "gz2",
                "RegionName": "广州 2",
                "Nodes": [
                    {
                        "Name": "902a",
                        "RegionID": 902,
                        "HostName": "203.0.113.2",
                        "CertName": "sha256-raw:" + "cd" * 32,
                        "IPv4": "203.0.113.2",
                        "STUNPort": 20003,
                        "DERPPort": 20002,
                    }
                ],
            },
        }
    }
    assert list(build_map(NODES)["Regions"]) == ["901", "902"]


@pytest.mark.parametrize(
    "change",
    [
        {"region_id": 899},
        {"region_id": 1000},
        {"address": "203.0.113.999"},
        {"address": "2001:db8::1"},
        {"address": "example.com"},
        {"derp_port": 0},
        {"stun_port": 65536},
        {"certificate_sha256": "AB" * 32},
        {"certificate_sha256": ""},
    ],
)
def test_map_is_not_built_when_a_value_is_wrong(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        build_map([replace(SHANGHAI, **change)])


def test_map_is_not_built_when_a_region_id_is_given_twice() -> None:
    with pytest.raises(ValueError, match="given twice"):
        build_map([SHANGHAI, replace(GUANGZHOU, region_id=901)])


@pytest.mark.parametrize("name", ["map.hujson", "key.hujson", "map.yaml", "map.json"])
def test_text_is_the_golden_one_when_written(name: str) -> None:
    derp_map = build_map(NODES)
    texts = {
        "map.hujson": derpmap.to_hujson(derp_map, **LABELS),
        "key.hujson": derpmap.to_hujson_key(derp_map, **LABELS),
        "map.yaml": derpmap.to_headscale_yaml(derp_map, **LABELS),
        "map.json": derpmap.to_json(derp_map),
    }
    assert texts[name] == (GOLDEN / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("language", ["en", "zh-hans"])
@pytest.mark.parametrize("place", ["上海", HOSTILE, "", "https://x/*y*/"])
def test_every_format_says_the_same_when_parsed(language: str, place: str) -> None:
    derp_map = build_map([replace(SHANGHAI, name=place), replace(GUANGZHOU, name=place)])
    with translation.override(language):
        whole = parse_hujson(derpmap.to_hujson(derp_map, **LABELS))
        key = derpmap.to_hujson_key(derp_map, **LABELS)
        headscale = yaml.safe_load(derpmap.to_headscale_yaml(derp_map, **LABELS))
    assert whole == {"derpMap": derp_map}
    assert json.loads(derpmap.to_json(derp_map)) == derp_map
    assert list(headscale) == ["regions"]
    for region in derp_map["Regions"].values():
        (node,) = region["Nodes"]
        nodes = [{name.lower(): value for name, value in node.items()}]
        assert headscale["regions"][region["RegionID"]] == {
            name.lower(): nodes if name == "Nodes" else value for name, value in region.items()
        }
    assert parse_hujson(f'// mine\n{{\n{key}\t"grants": [1, 2,], /* last */\n}}\n') == {
        "derpMap": derp_map,
        "grants": [1, 2],
    }
    assert parse_hujson(f"{{{key}}}") == {"derpMap": derp_map}


@pytest.mark.parametrize("file_format", list(MapFormat))
def test_nothing_dangerous_is_in_the_map_when_handed_out(file_format: MapFormat) -> None:
    text = derpmap.render_map(build_map(NODES), file_format, **LABELS)
    lines = [line for line in text.lower().splitlines() if not line.strip().startswith(("//", "#"))]
    for word in ("insecurefortests", "ipv6", "omitdefaultregions"):
        assert word not in "\n".join(lines)


@pytest.mark.slow
@given(st.lists(st.from_regex(r"\A[A-Za-z0-9_-]{1,8}\Z"), min_size=2, max_size=99))
def test_codes_differ_when_places_are_alike(places: list[str]) -> None:
    codes = {derpmap.region_code(place, number) for number, place in enumerate(places, 1)}
    assert len(codes) == len(places)


def test_ways_are_the_same_when_only_names_differ() -> None:
    renamed = [replace(SHANGHAI, name="Shanghai", code="x", latitude=None), GUANGZHOU]
    assert derpmap.ways(build_map(NODES)) == derpmap.ways(build_map(renamed))
    for change in (
        {"region_id": 903},
        {"address": "203.0.113.9"},
        {"derp_port": 1},
        {"stun_port": 1},
        {"certificate_sha256": "0" * 64},
    ):
        moved = [replace(SHANGHAI, **change), GUANGZHOU]  # type: ignore[arg-type]
        assert derpmap.ways(build_map(NODES)) != derpmap.ways(build_map(moved))
