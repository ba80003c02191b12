"""Every form in which operators write the panel's address and proxies write their clients'."""

import contextlib
import ipaddress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.test import Client, RequestFactory
from hypothesis import assume, given
from hypothesis import strategies as st

from acl.devices import outbound
from derpmgmt.lib.address import client_ip
from derpmgmt.lib.public_url import read_host, read_url
from tests.panel.running import Folder

pytestmark = pytest.mark.slow

# A busy machine draws slowly.
# What is typed, and the origin that a browser sends from there.
GOOD = [
    ("https://derp.example.com", "https://derp.example.com"),
    ("https://derp.example.com/", "https://derp.example.com"),
    (" HTTPS://Derp.Example.COM:443/ ", "https://derp.example.com"),
    ("http://derp.example.com:80", "http://derp.example.com"),
    ("https://derp.example.com:8443", "https://derp.example.com:8443"),
    ("http://derp.example.com.:8000", "http://derp.example.com:8000"),
    ("http://203.0.113.7:8000", "http://203.0.113.7:8000"),
    ("http://[2001:DB8:0:0::1]:8000", "http://[2001:db8::1]:8000"),
    ("https://[2001:db8::1]", "https://[2001:db8::1]"),
    ("http://[::ffff:203.0.113.7]:8000", "http://[::ffff:cb00:7107]:8000"),
    ("http://localhost:8000", "http://localhost:8000"),
    ("https://中继.例子.中国", "https://xn--fiqv10j.xn--fsqu00a.xn--fiqs8s"),
    ("https://中继。例子。中国:8443/", "https://xn--fiqv10j.xn--fsqu00a.xn--fiqs8s:8443"),
    ("https://Bücher.example", "https://xn--bcher-kva.example"),
]
BAD = [
    "derp.example.com", "ftp://derp.example.com", "https://", "https:///home", "https://user:secret@derp.example.com",
    "https://derp.example.com/panel", "https://derp.example.com/?a=b", "https://derp.example.com/#a", "http://2001:db8::1",
    "http://2001:db8::1:8000", "http://[2001:db8::1", "http://[fe80::1%25eth0]:8000", "http://host:port", "http://host:0",
    "http://host:70000", "http://host:", "http://my_host", "http://-a.example", "http://a..b", "http://127.1", "http://1.2.3.4.5",
    "http://0x7f.0.0.1", "http://a b", "http://[::1]x:80", "http://例 子", "",
]  # fmt: skip


@pytest.mark.parametrize(("typed", "origin"), GOOD)
def test_an_address_is_read_as_browsers_write_it(typed: str, origin: str) -> None:
    assert str(read_url(typed)) == read_url(typed).origin == origin
    assert str(read_url(origin)) == origin


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("[2001:DB8:0:0::1]:8000", 200),
        ("[2001:0db8:0000:0000:0000:0000:0000:0001]", 200),
        ("[2001:db8::2]:8000", 400),
        ("[2001:db8::1", 400),
        ("[::1]evil.example", 400),
        ("[]", 400),
        ("[2001:db8::1]:8000:", 400),
        ("[2001:db8::1%25eth0]", 400),
    ],
)
@pytest.mark.django_db
def test_programs_that_write_out_an_ipv6_address_are_answered(host: str, status: int, settings: Any) -> None:
    settings.ALLOWED_HOSTS = [read_url("http://[2001:db8::1]:8000").host]
    assert Client(headers={"host": host}).get("/accounts/login/").status_code == status


@pytest.mark.parametrize(("typed", "origin"), GOOD)
@pytest.mark.django_db
def test_every_page_answers_and_takes_forms_under_that_address(
    typed: str, origin: str, settings: Any
) -> None:
    url = read_url(typed)
    settings.ALLOWED_HOSTS, settings.CSRF_TRUSTED_ORIGINS = [url.host], [url.origin]
    settings.PUBLIC_URL = str(url)
    # A proxy ends TLS and passes the Host on; what the browser says of itself is the whole origin.
    client = Client(enforce_csrf_checks=True, headers={"host": urlsplit(origin).netloc})
    assert client.get("/accounts/login/").status_code == 200
    data = {
        "csrfmiddlewaretoken": client.cookies["csrftoken"].value,
        "login": "a@example.com",
        "password": "x",
    }
    assert client.post("/accounts/login/", data, headers={"origin": origin}).status_code == 200
    assert (
        client.post("/accounts/login/", data, headers={"origin": "https://evil.example"}).status_code == 403
    )


@pytest.mark.parametrize("typed", BAD)
def test_an_address_that_leads_nowhere_is_refused_with_a_sentence(typed: str) -> None:
    with pytest.raises(ValueError, match=r"[a-z]{3}") as refused:
        read_url(typed)
    assert "secret" not in str(refused.value)


@given(st.ip_addresses(), st.integers(1, 65535))
def test_every_literal_address_is_taken(address: ipaddress.IPv4Address, port: int) -> None:
    host = f"[{address.exploded.upper()}]" if address.version == 6 else str(address)
    assume(not address.is_unspecified)
    read = read_url(f"http://{host}:{port}")
    assert (read.port or 80) == port
    mapped = getattr(address, "ipv4_mapped", None)
    assert ipaddress.ip_address(read.host.strip("[]")) == address or mapped


@given(st.text(max_size=40))
def test_whatever_is_typed_is_read_or_refused(text: str) -> None:
    for read in (read_url, read_host):
        with contextlib.suppress(ValueError):
            assert str(read(text)).isascii()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("DERPMGMT_PUBLIC_URL", "http://my_host:8000", "my_host"),
        ("DERPMGMT_PUBLIC_URL", "https://derp.example.com/panel", "below a path"),
        ("DERPMGMT_PUBLIC_URL", "http://0.0.0.0:8000", "every address of this machine"),
        ("DERPMGMT_PUBLIC_URL", "http://[0:0::0]", "every address of this machine"),
        ("DERPMGMT_RELAY_URL", "http://a:b@c", "no user and password"),
        ("DERPMGMT_ALLOWED_HOSTS", "good.example,my_host", "my_host"),
    ],
)
def test_the_panel_does_not_start_with_a_wrong_address_and_says_why(
    name: str, value: str, said: str, tmp_path: Path
) -> None:
    done = Folder(tmp_path / "var").manage("check", **{name: value})
    assert done.returncode == 1
    assert name in done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("PUBLIC_URL", "http://0.0.0.0:8000", "DERPMGMT_PUBLIC_URL：0.0.0.0 代表本机的所有地址"),
        ("PORT", "eighty", "DERPMGMT_PORT：必须是整数"),
        ("LOOKUP_KEY", "short", "DERPMGMT_LOOKUP_KEY 中的密钥有误：不足 16 个字符"),
        ("LANGUAGE", "french", "DERPMGMT_LANGUAGE：只能填 zh-hans 或 en"),
    ],
)
def test_a_wrong_setting_is_said_in_the_terminals_language(
    name: str, value: str, said: str, tmp_path: Path
) -> None:
    done = Folder(tmp_path / "var").manage("check", LC_ALL="zh_CN.UTF-8", **{f"DERPMGMT_{name}": value})
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("198.51.100.1", "198.51.100.1"),
        (" 198.51.100.1 ", "198.51.100.1"),
        ("198.51.100.1:51234", "198.51.100.1"),
        ("198.51.100.1:", "198.51.100.1"),
        ('"198.51.100.1:443"', "198.51.100.1"),
        ("2001:DB8::7", "2001:db8::7"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("[2001:db8::7]:443", "2001:db8::7"),
        ('"[2001:db8::7]:443"', "2001:db8::7"),
        ("2001:db8::7%eth0", "2001:db8::7"),
        ("[fe80::1%25en0]:80", "fe80::1"),
        ("::ffff:198.51.100.1", "198.51.100.1"),
        ("[::ffff:198.51.100.1]:80", "198.51.100.1"),
        ("::FFFF:c633:6401", "198.51.100.1"),
        ("unknown", "10.0.0.1"),
        ("_hidden", "10.0.0.1"),
        ("", "10.0.0.1"),
        ("256.1.1.1:80", "10.0.0.1"),
        ("[198.51.100.1", "10.0.0.1"),
        ("for=198.51.100.1", "10.0.0.1"),
    ],
)
def test_every_form_of_a_forwarded_address_is_read(entry: str, expected: str, settings: Any) -> None:
    settings.TRUSTED_PROXIES = 1
    for header in (entry, f"6.6.6.6, {entry}", f"6.6.6.6,,{entry}"):
        wanted = "6.6.6.6" if not entry and "6.6" in header else expected
        request = RequestFactory().get("/", REMOTE_ADDR="10.0.0.1", HTTP_X_FORWARDED_FOR=header)
        assert client_ip(request) == wanted, header


@given(
    st.ip_addresses(),
    st.integers(0, 65535),
    st.sampled_from(["{0}", "[{0}]", "[{0}]:{1}", "{0}:{1}", ' "{0}" ']),
)
def test_every_address_in_every_wrapping_is_that_address(address: Any, port: int, form: str) -> None:
    if address.version == 6 and form == "{0}:{1}":
        return  # nobody could tell
    from derpmgmt.lib.address import _parse

    expected = getattr(address, "ipv4_mapped", None) or address
    assert _parse(form.format(address, port)) == expected


@given(st.text(max_size=60))
def test_a_client_has_an_address_whatever_stands_in_the_header(text: str) -> None:
    from django.test import override_settings

    with override_settings(TRUSTED_PROXIES=1):
        request = RequestFactory().get("/", REMOTE_ADDR="10.0.0.1", HTTP_X_FORWARDED_FOR=text)
        ipaddress.ip_address(client_ip(request))


@pytest.mark.parametrize("address", ["192.0.0.1", "192.0.0.8", "192.0.0.9", "192.0.0.10", "192.0.0.255"])
def test_addresses_of_protocols_are_not_public(address: str) -> None:
    assert not outbound._is_public(address)
    assert outbound._is_public("192.0.1.1")
