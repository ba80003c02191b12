"""Which addresses a server may have, and how the address for SSH is read: on the page, by the commands, in the services."""

from io import StringIO
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command
from django.urls import reverse
from django.utils import translation

from fleet import services
from fleet.models import Server
from tests.fleet.test_validation import register
from tests.panel.world import enter

pytestmark = pytest.mark.django_db

NOBODYS = [
    "0.0.0.0",  # noqa: S104
    "0.1.2.3",
    "169.254.169.254",
    "169.254.1.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
]
NOBODYS_6 = [
    "::",
    "::ffff:0.0.0.0",
    "::ffff:224.0.0.1",
    "fe80::1",
    "fe80::1%eth0",
    "ff02::1",
    "ff0e::7",
    "100::1",
]
USABLE = [
    "8.8.8.8",
    "203.0.113.1",
    "10.0.0.4",
    "172.16.0.9",
    "192.168.1.1",
    "100.64.0.9",
    "127.0.0.1",
    "198.18.0.1",
    "223.255.255.1",
]
# What people paste, and what belongs elsewhere of it.
ASTRAY = [
    "root@1.2.3.4",
    "root@host.example.com",
    "1.2.3.4:22",
    "host.example.com:2222",
    "host:",
    "[2001:db8::1]:22",
    "[2001:db8::1",
    "2001:db8::1]",
    "[]",
    "[host]",
    "ssh://1.2.3.4",
    "ssh://root@host:22/",
    "https://host.example.com",
    "host.example.com/path",
    "host name",
    "1.2.3.4 5.6.7.8",
    "1.2.3.4\nProxyCommand x",
    "-oProxyCommand=x",
    "host;id",
    "host,other",
    "127.1",
    "1.2.3",
    "1.2.3.4.5",
    "256.1.1.1",
    "0",
    "2130706433",
    "0x7f.1",
    "host..example",
    ".host",
    "x" * 64,
    "2001:db8::zz",
    "2001:db8::1%eth0",
]


def refusal(**values: Any) -> dict[str, list[str]]:
    """What is said at which field where a server is not registered."""
    with pytest.raises(ValidationError) as refused:
        register("one", **({"address": "203.0.113.1"} | values))
    assert not Server.objects.exists()
    found: dict[str, list[str]] = refused.value.message_dict
    return found


@pytest.mark.parametrize("field", ["address", "bind_address", "ssh_host"])
@pytest.mark.parametrize("address", NOBODYS)
def test_what_is_no_machines_address_is_refused_at_its_field(field: str, address: str) -> None:
    said = refusal(**{field: address})
    assert list(said) == [field]
    assert address in said[field][0]


@pytest.mark.parametrize("address", NOBODYS_6)
def test_what_is_no_machines_ipv6_address_is_refused_for_ssh(address: str) -> None:
    assert list(refusal(ssh_host=address)) == ["ssh_host"]


@pytest.mark.parametrize("address", USABLE)
def test_private_addresses_and_loopback_stay_allowed_everywhere(address: str) -> None:
    server = register("one", address=address, bind_address=address, ssh_host=address)
    assert (server.address, server.bind_address, server.ssh_host) == (address,) * 3


@pytest.mark.parametrize("host", ASTRAY)
def test_what_is_more_than_a_host_says_where_the_rest_goes(host: str) -> None:
    with translation.override("en"):
        said = refusal(ssh_host=host)
    assert list(said) == ["ssh_host"]
    assert "SSH credential" in said["ssh_host"][0]
    assert "SSH port" in said["ssh_host"][0]


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("", ""),
        ("  ", ""),
        (" host.example.com\n", "host.example.com"),
        ("Host.Example.COM.", "host.example.com"),
        ("my_host", "my_host"),
        ("localhost", "localhost"),
        ("a-1.b2.example", "a-1.b2.example"),
        ("中继.example.com", "xn--fiqv10j.example.com"),
        (" 10.0.0.4 ", "10.0.0.4"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("2001:0DB8:0:0::1", "2001:db8::1"),
        ("::ffff:10.0.0.4", "10.0.0.4"),
        ("::1", "::1"),
    ],
)
def test_a_host_is_kept_in_its_common_form(typed: str, kept: str) -> None:
    server = register("one", address="203.0.113.1", ssh_host=typed)
    assert Server.objects.get(pk=server.pk).ssh_host == kept
    services.update_server(server=server, by=None, ssh_host="other.example.com")
    services.update_server(server=server, by=None, ssh_host=typed)
    assert Server.objects.get(pk=server.pk).ssh_host == kept


def test_changes_are_held_against_the_same_rules() -> None:
    server = register("one", address="203.0.113.1")
    for field, wrong in (("address", "0.0.0.0"), ("bind_address", "224.0.0.1"), ("ssh_host", "a@b")):  # noqa: S104
        with pytest.raises(ValidationError) as refused:
            services.update_server(server=Server.objects.get(), by=None, **{field: wrong})
        assert list(refused.value.message_dict) == [field]
    server.refresh_from_db()
    assert (server.address, server.bind_address, server.ssh_host) == ("203.0.113.1", None, "")


def test_the_page_says_it_at_the_field_in_chinese_and_keeps_what_was_typed() -> None:
    made = register("one", address="203.0.113.1")
    client = enter("admin", has_factor=True)
    url = reverse("admin:fleet_server_change", args=[made.pk])
    values = {
        "name": "one", "region": made.region_id, "credential": made.credential_id, "address": "0.0.0.0",  # noqa: S104
        "ssh_host": "root@1.2.3.4:22", "ssh_port": 22, "docker_socket": made.docker_socket, "capacity": 50,
        "tcp_port_first": 20000, "tcp_port_last": 20999, "udp_port_first": 20000, "udp_port_last": 20999,
        "traffic_reset_day": 1,
    }  # fmt: skip
    answer = client.post(url, values, headers={"accept-language": "zh-hans"})
    assert answer.status_code == 200
    page = answer.content.decode()
    assert set(answer.context["adminform"].form.errors) == {"address", "ssh_host"}
    assert "0.0.0.0 代表本机的所有地址" in page
    assert "用户名写在 SSH 凭据里" in page
    assert 'value="root@1.2.3.4:22"' in page
    assert Server.objects.get().address == "203.0.113.1"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["0.0.0.0"], "0.0.0.0"),  # noqa: S104
        (["not-an-address"], "IPv4"),
        (["203.0.113.1", "--ssh-host", "root@127.0.0.1"], "--user"),
        (["203.0.113.1", "--ssh-host", "0.0.0.0"], "0.0.0.0"),  # noqa: S104
        (["203.0.113.1", "--bind-address", "255.255.255.255"], "255.255.255.255"),
    ],
)
def test_the_command_refuses_before_it_connects(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str
) -> None:

    monkeypatch.setattr("fleet.ssh.transport.read_host_key", lambda *_: pytest.fail("it connected"))
    register("other", address="198.51.100.1")
    for command in (
        ["server_add", *arguments, "--region", "sh"],
        ["server_edit", "other", "--host-key", "SHA256:x", "--address", *arguments],
    ):
        with translation.override("en"), pytest.raises(CommandError) as refused:
            call_command(*command, stdout=StringIO(), stderr=StringIO())
        assert says in str(refused.value)
    assert Server.objects.get().address == "198.51.100.1"
