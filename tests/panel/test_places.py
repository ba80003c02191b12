"""Places of IP addresses, from a database that a test writes; and where they are kept."""

import ipaddress
import json
import logging
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from derpmgmt.lib import places
from derpmgmt.lib.places import place_of

FIELDS = ["country_name", "region_name", "city_name", "owner_domain", "isp_domain"]
OPEN = Path("/proc/self/fd")
SHENZHEN = "183.60.0.0/15"
WORLD = {
    SHENZHEN: ("中国", "广东", "深圳", "", "电信"),
    "43.255.0.0/24": ("中国", "北京", "北京", "", ""),
    "43.255.1.0/24": ("中国", "", "", "", "骨干网"),
    "8.8.8.0/24": ("美国", "加利福尼亚州", "圣克拉拉", "", ""),
    "185.2.3.4/32": ("瑞士", "", "", "", ""),
    "9.9.9.9/32": ("长" * 100, "", "", "", ""),
    "2408:8000::/20": ("中国", "广东", "广州", "", "联通"),
    "10.0.0.0/8": ("IANA", "", "", "", "局域网"),
}


def ipdb(world: Mapping[str, tuple[str, ...]]) -> bytes:
    """A database in ipdb format, in the way its makers describe it."""
    nodes: list[list[int | str]] = [[-1, -1]]
    for network, fields in world.items():
        net = ipaddress.ip_network(network)
        bits = f"{int(net.network_address):0{net.max_prefixlen}b}"[: net.prefixlen]
        if net.version == 4:
            bits = "0" * 80 + "1" * 16 + bits
        node = 0
        for bit in bits[:-1]:
            if nodes[node][int(bit)] == -1:
                nodes.append([-1, -1])
                nodes[node][int(bit)] = len(nodes) - 1
            following = nodes[node][int(bit)]
            assert isinstance(following, int)
            node = following
        nodes[node][int(bits[-1])] = "\t".join(fields)
    records, count = b"", len(nodes)
    offsets: dict[str, int] = {}
    for text in {value for node in nodes for value in node if isinstance(value, str)}:
        # The first record stands 8 bytes behind: its number must be greater than the count of nodes.
        offsets[text] = count + 8 + len(records)
        records += len(text.encode()).to_bytes(2) + text.encode()

    def number(value: int | str) -> bytes:
        return (offsets[value] if isinstance(value, str) else count if value == -1 else value).to_bytes(4)

    data = b"".join(number(left) + number(right) for left, right in nodes) + bytes(8) + records
    about = {
        "build": 1, "ip_version": 3, "languages": {"CN": 0}, "node_count": count, "total_size": len(data),
        "fields": FIELDS,
    }  # fmt: skip
    text = json.dumps(about).encode()
    return len(text).to_bytes(4) + text + data


@pytest.fixture
def file(tmp_path: Path, settings: Any) -> Path:
    path = tmp_path / "qqwry.ipdb"
    path.write_bytes(ipdb(WORLD))
    settings.IP_DATABASE = str(path)
    return path


@pytest.mark.parametrize(
    ("ip", "place"),
    [
        ("183.60.1.1", "广东 深圳"),
        ("183.61.255.255", "广东 深圳"),
        ("::ffff:183.60.1.1", "广东 深圳"),
        ("43.255.0.9", "北京"),
        ("43.255.1.9", "中国"),
        ("8.8.8.8", "美国 加利福尼亚州 圣克拉拉"),
        ("185.2.3.4", "瑞士"),
        ("9.9.9.9", "长" * 80),
        ("2408:8001::1", "广东 广州"),
        ("185.2.3.5", ""),
        ("2a00::1", ""),
        ("10.1.2.3", ""),
        ("127.0.0.1", ""),
        ("fe80::1", ""),
        ("nonsense", ""),
        ("", ""),
        (None, ""),
    ],
)
def test_the_place_of_an_address(file: Path, ip: str | None, place: str) -> None:
    assert [place_of(ip), place_of(ip)] == [place, place]


def test_no_place_is_known_when_no_database_is_set(settings: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert settings.IP_DATABASE == ""
    assert place_of("183.60.1.1") == ""
    assert not caplog.records


BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _data: b"",
    "text": lambda _data: b"<html>not found</html>" * 100,
    "json": lambda _data: (2).to_bytes(4) + b"{}",
    "short": lambda data: data[:-1],
    "no-city": lambda data: data.replace(b"city_name", b"town_name"),
    "no-records": lambda data: data[:-800] + bytes([255]) * 800,
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_database_is_said_once_and_hurts_nobody(
    how: str, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file.write_bytes(BROKEN[how](file.read_bytes()))
    with caplog.at_level(logging.WARNING):
        assert {place_of(ip) for ip in ("183.60.1.1", "8.8.8.8", "2408:8001::1") for _ in range(3)} == {""}
    assert len(caplog.records) == 1
    assert str(file) in caplog.text


def test_a_database_that_comes_goes_and_changes_counts_at_once(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert place_of("183.60.1.1") == "广东 深圳"
    new = file.with_suffix(".new")
    new.write_bytes(ipdb(WORLD | {SHENZHEN: ("中国", "广东", "惠州", "", "")}))
    new.rename(file)
    assert place_of("183.60.1.1") == "广东 惠州"
    # Overwritten where it lies, which begins with cutting it off.
    data = ipdb(WORLD)
    with file.open("r+b") as writing:
        writing.truncate(100)
        assert place_of("8.8.8.8") == ""
        writing.write(data)
    os.utime(file, ns=(1, 1))
    assert place_of("8.8.8.8") == "美国 加利福尼亚州 圣克拉拉"
    file.unlink()
    assert [place_of("8.8.8.8") for _ in range(3)] == [""] * 3
    assert len(caplog.records) == 2


def test_what_is_remembered_and_open_is_bounded(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "_MOST_KNOWN", 10)
    for number in range(100):
        place_of(f"183.60.1.{number}")
    assert places._database is not None
    assert len(places._database._known) <= 10
    before = len(list(OPEN.iterdir()))
    for moment in range(50):
        os.utime(file, ns=(moment, moment))
        place_of("183.60.1.1")
    assert len(list(OPEN.iterdir())) == before


def test_threads_and_forked_processes_read_the_same_file(file: Path) -> None:
    assert place_of("8.8.8.8")
    ips = [f"183.60.{number}.1" for number in range(200)]
    pid = os.fork()
    if not pid:
        os._exit(any(place_of(ip) != "广东 深圳" for ip in ips))
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(place_of, ips)) == {"广东 深圳"}
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
