"""What an address that a stranger named may lead to."""

import socket
from typing import Any

import pytest

from acl.devices import outbound, sources
from acl.devices.sources import VerifyUrlRefused, check_verify_url
from tests.acl.answering import _fresh as _fresh
from tests.acl.answering import ask, problem
from tests.acl.answering import open_house as open_house
from tests.derp.conftest import admission as admission
from tests.derp.conftest import start_scripted as start_scripted
from tests.factories import ServerFactory

# What may be asked


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("", "scheme"),
        ("verify.example.com", "scheme"),
        ("ftp://example.com/", "scheme"),
        ("file:///etc/passwd", "scheme"),
        ("gopher://example.com:8080/", "scheme"),
        ("http://", "not_url"),
        ("http://exa mple.com/", "not_url"),
        ("http://example.com/\r\nX: y", "not_url"),
        ("http://example.com\\@127.0.0.1/", "credentials"),
        ("http://example.com\\.evil.com/", "not_url"),
        ("http://控制.example/", "not_url"),
        ("http://[::1/", "not_url"),
        ("http://[fe80::1%25eth0]/", "not_url"),
        ("http://user:secret@example.com/", "credentials"),
        ("http://@example.com/", "credentials"),
        ("https://example.com:22/", "port"),
        ("https://example.com:0/", "port"),
        ("https://example.com:1023/", "port"),
        ("https://example.com:65536/", "not_url"),
        ("https://example.com/" + "x" * 300, "too_long"),
    ],
)
def test_an_address_is_refused_when_it_cannot_be_meant(url: str, code: str) -> None:
    with pytest.raises(VerifyUrlRefused) as refusal:
        check_verify_url(url)
    assert refusal.value.code == code
    assert ask(url) == problem(code)


INTERNAL = [
    *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.100.100.200", "0.0.0.0"),  # noqa: S104
    *("224.0.0.1", "255.255.255.255", "198.18.0.1", "192.0.2.1", "192.88.99.1", "168.63.129.16"),
    *("::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fec0::1", "ff0e::1", "2001:db8::1", "3fff::1"),
    *("::ffff:8.8.8.8", "::8.8.8.8", "2002:7f00:1::1", "2001:0:1::1", "64:ff9b::8.8.8.8", "64:ff9b:1::1"),
]


def resolve_to(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Have names resolve to these addresses, one list after the other; returns the names that were looked up."""
    asked: list[str] = []
    left = list(answers)

    def getaddrinfo(host: str, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        found = left.pop(0) if len(left) > 1 else left[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in found]

    monkeypatch.setattr(outbound.socket, "getaddrinfo", getaddrinfo)
    return asked


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Where we would have connected to; nobody is there."""
    attempts: list[tuple[str, int]] = []

    def open_tcp(host: str, port: int, *, timeout: float) -> socket.socket:
        attempts.append((host, port))
        raise ConnectionRefusedError

    monkeypatch.setattr(outbound, "open_tcp", open_tcp)
    # The panel's own name is none that could be looked up.
    monkeypatch.setattr(outbound, "_panel_hosts", lambda _period: frozenset({"panel.example", "8.8.4.4"}))
    return attempts


@pytest.mark.django_db
@pytest.mark.parametrize("address", INTERNAL)
def test_no_connection_is_made_when_a_name_leads_inside(
    address: str, monkeypatch: pytest.MonkeyPatch, connected: list[tuple[str, int]]
) -> None:
    resolve_to(monkeypatch, ["8.8.8.8", address])
    with pytest.raises(VerifyUrlRefused) as refusal:
        check_verify_url("https://verify.example/")
    assert refusal.value.code == "internal"
    assert connected == []


@pytest.mark.django_db
@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "localhost", "[::1]", "localhost."],
)
def test_no_connection_is_made_when_the_address_is_a_disguise(
    host: str, connected: list[tuple[str, int]]
) -> None:
    assert ask(f"http://{host}:8000/").problem in {
        sources.SENTENCES["internal"],
        sources.SENTENCES["unresolved"],
    }
    assert connected == []


@pytest.mark.django_db
def test_the_connection_goes_where_the_check_looked_when_the_name_moves(
    monkeypatch: pytest.MonkeyPatch, connected: list[tuple[str, int]]
) -> None:
    asked = resolve_to(monkeypatch, ["8.8.8.8", "2606:4700::1111"], ["127.0.0.1"])
    assert ask("https://moving.example/") == problem("no_answer")
    assert asked == ["moving.example"]
    assert connected == [("8.8.8.8", 443), ("2606:4700::1111", 443)]


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("url", "addresses"),
    [("https://panel.example/", ["8.8.8.8"]), ("https://other.example/", ["8.8.4.4"])],
)
def test_no_connection_is_made_when_it_is_the_panel_itself(
    url: str, addresses: list[str], monkeypatch: pytest.MonkeyPatch, connected: list[tuple[str, int]]
) -> None:
    resolve_to(monkeypatch, addresses)
    assert ask(url) == problem("internal")
    assert connected == []


@pytest.mark.django_db
def test_no_connection_is_made_when_an_interface_of_this_machine_has_the_address(
    monkeypatch: pytest.MonkeyPatch, connected: list[tuple[str, int]]
) -> None:
    resolve_to(monkeypatch, ["127.0.0.9"])
    monkeypatch.setattr(outbound, "_is_public", lambda _address: True)
    assert ask("https://verify.example/") == problem("internal")
    assert connected == []


def test_the_panels_own_names_and_addresses_are_known(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.PUBLIC_URL, settings.RELAY_URL = "https://panel.example", "http://203.0.113.5:8000"
    resolve_to(monkeypatch, ["203.0.113.5"])
    assert outbound._panel_hosts(0) == {"panel.example", "203.0.113.5"}


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("fields", "url", "is_asked"),
    [
        ({}, "https://verify.example/", True),
        ({}, "http://verify.example/", True),
        ({}, "http://verify.example:20000/", False),
        ({"ssh_port": 2222}, "http://verify.example:2222/", False),
        ({"ssh_port": 443}, "https://verify.example/", False),
        ({"address": "8.8.4.5", "ssh_host": "verify.example"}, "http://verify.example:8080/", False),
        ({"address": "8.8.4.5", "ssh_host": "8.8.8.8"}, "http://verify.example:8080/", False),
        ({"address": "8.8.4.5"}, "http://verify.example:8080/", True),
    ],
)
def test_only_web_ports_of_the_fleet_are_asked(
    fields: dict[str, Any],
    url: str,
    is_asked: bool,
    monkeypatch: pytest.MonkeyPatch,
    connected: list[tuple[str, int]],
) -> None:
    server = ServerFactory()
    for name, value in ({"address": "8.8.8.8"} | fields).items():
        setattr(server, name, value)
    server.save()
    resolve_to(monkeypatch, ["8.8.8.8"])
    assert ask(url) == problem("no_answer" if is_asked else "internal")
    assert bool(connected) == is_asked
