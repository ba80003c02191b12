"""What a server's registration is held against: its own ports, and those of others at the same address."""

from typing import Any

import pytest
from django.core.exceptions import ValidationError

from fleet import services
from fleet.forms import ServerForm
from fleet.models import Server
from tests.factories import RegionFactory, SshCredentialFactory

pytestmark = pytest.mark.django_db
FIRST = {
    "address": "203.0.113.1",
    "bind_address": "10.0.0.4",
    "tcp_port_first": 20000,
    "tcp_port_last": 20099,
    "udp_port_first": 30000,
    "udp_port_last": 30099,
}
ELSEWHERE = {"tcp_port_first": 21000, "tcp_port_last": 21099, "udp_port_first": 31000, "udp_port_last": 31099}


def register(name: str, **values: Any) -> Server:
    region = values.pop("region", None) or RegionFactory()
    credential = SshCredentialFactory(private_key="x")
    return services.create_server(by=None, name=name, region=region, credential=credential, **values)


@pytest.fixture
def first() -> Server:
    return register("first", **FIRST, ssh_port=2022)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"capacity": 1001}, "capacity"),
        ({"capacity": 101, "udp_port_last": 20099}, "capacity"),
        ({"capacity": 2, "tcp_port_first": 20000, "tcp_port_last": 20000}, "capacity"),
        ({"ssh_port": 20000}, "ssh_port"),
        ({"ssh_port": 20999}, "ssh_port"),
        ({"ssh_port": 20022, "ssh_host": "jump.example.com"}, "ssh_port"),
        ({"tcp_port_first": 20999, "tcp_port_last": 20000}, "tcp_port_last"),
        ({"udp_port_first": 20999, "udp_port_last": 20000}, "udp_port_last"),
        ({"docker_socket": "tcp://127.0.0.1:2375"}, "docker_socket"),
        ({"docker_socket": "ssh://root@host"}, "docker_socket"),
        ({"docker_socket": "docker.sock"}, "docker_socket"),
        ({"docker_socket": "unix://docker.sock"}, "docker_socket"),
        ({"docker_socket": "~/docker.sock"}, "docker_socket"),
        ({"docker_socket": "/var/run/"}, "docker_socket"),
        ({"docker_socket": "/var/run/docker.sock\n/x"}, "docker_socket"),
    ],
)
def test_what_cannot_work_is_refused_at_its_field(values: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        register("one", address="203.0.113.1", **values)
    assert list(refusal.value.message_dict) == [field]
    assert not Server.objects.exists()


@pytest.mark.parametrize(
    ("values", "field"),
    [
        # The same public address, by another SSH port.
        ({"ssh_port": 22}, "tcp_port_first"),
        ({"tcp_port_first": 20099, "tcp_port_last": 20199}, "tcp_port_first"),
        ({"udp_port_first": 29000, "udp_port_last": 30000}, "udp_port_first"),
        # Another public address of what binds the same one there.
        ({"address": "203.0.113.2", "tcp_port_first": 20000, "tcp_port_last": 20099}, "tcp_port_first"),
        # The other one's own address is this one's public one.
        ({"address": "10.0.0.4", "bind_address": None, "tcp_port_first": 20050}, "tcp_port_first"),
        # The SSH port of one among the relays of the other.
        ({"tcp_port_first": 2000, "tcp_port_last": 2999}, "tcp_port_first"),
        ({"ssh_port": 20050}, "ssh_port"),
    ],
)
def test_ports_that_another_server_has_at_the_address_are_refused(
    first: Server, values: dict[str, Any], field: str
) -> None:
    wanted = {**FIRST, **ELSEWHERE, "ssh_port": 22}
    if field == "tcp_port_first" and values == {"ssh_port": 22}:
        wanted |= {"tcp_port_first": 20000, "tcp_port_last": 20099}
    with pytest.raises(ValidationError) as refusal:
        register("second", **(wanted | values))
    assert list(refusal.value.message_dict) == [field]
    assert "first" in " ".join(refusal.value.messages)


def test_servers_behind_one_address_have_ports_of_their_own(first: Server) -> None:
    second = register("second", **(FIRST | ELSEWHERE), ssh_port=22)
    with pytest.raises(ValidationError) as refusal:
        services.update_server(server=second, by=None, tcp_port_first=20099)
    assert list(refusal.value.message_dict) == ["tcp_port_first"]
    second.refresh_from_db()
    assert second.tcp_port_first == 21000


def test_a_private_address_is_another_machine_in_another_region(first: Server) -> None:
    other = RegionFactory(code="gz")
    register("second", **(FIRST | {"address": "203.0.113.2"}), region=other)
    assert Server.objects.count() == 2


def test_ports_of_a_retired_server_are_free(first: Server) -> None:
    services.retire_server(server=first, by=None)
    register("second", **FIRST)


def test_the_scheme_of_a_docker_socket_is_taken_off() -> None:
    server = register("one", address="203.0.113.1", docker_socket=" unix:///run/user/1000/docker.sock ")
    assert Server.objects.get(pk=server.pk).docker_socket == "/run/user/1000/docker.sock"
    services.update_server(server=server, by=None, docker_socket="unix:///var/run/docker.sock")
    assert Server.objects.get(pk=server.pk).docker_socket == "/var/run/docker.sock"


def test_the_form_shows_each_refusal_at_its_field_and_keeps_what_was_typed(first: Server) -> None:
    values: dict[str, Any] = {
        **FIRST,
        "name": "second",
        "region": first.region_id,
        "credential": first.credential_id,
        "ssh_port": 20001,
        "capacity": 500,
        "traffic_reset_day": 1,
        "docker_socket": "tcp://x",
    }
    form = ServerForm(values)
    assert set(form.errors) == {"capacity", "ssh_port", "docker_socket", "tcp_port_first", "udp_port_first"}
    assert form["docker_socket"].value() == "tcp://x"


def test_a_server_from_before_these_rules_can_still_be_looked_after(first: Server) -> None:
    Server.objects.update(capacity=5000)
    first.refresh_from_db()
    services.update_server(server=first, by=None, name="first", capacity=5000)
    services.update_server(server=first, by=None, capacity=100)
    first.refresh_from_db()
    assert first.capacity == 100
