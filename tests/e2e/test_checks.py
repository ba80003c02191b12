"""The check of a server judges what relays will really use, and says what is missing in words that help."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.utils import translation

from containers import jobs
from containers.image import build_placeholder
from containers.models import Relay, ServerCheck
from containers.services import checks, images
from fleet.contact import pool
from fleet.models import Server

from .conftest import IS_LAB, Fleet

pytestmark = pytest.mark.django_db(transaction=True)
sandbox_only = pytest.mark.skipif(IS_LAB, reason="the lab's hosts have one kind of machine, one Engine each")


@pytest.fixture(autouse=True)
def _english() -> Iterator[None]:
    with translation.override("en"):
        yield


def check(server: Server) -> ServerCheck:
    made = checks.request_check(server_pk=server.pk)
    jobs.check_server(server.pk)
    return ServerCheck.objects.get(pk=made.pk)


def words(made: ServerCheck, *, is_ok: bool) -> str:
    found = [finding for finding in checks.read_findings(made) if finding["is_ok"] is is_ok]
    return "\n".join(f"{finding['text']} {finding['remedy']}" for finding in found)


def test_a_good_server_passes_and_its_facts_are_named(fleet: Fleet) -> None:
    server = fleet.servers[0]
    made = check(server)
    assert (made.status, words(made, is_ok=False)) == ("done", "")
    server.refresh_from_db()
    assert server.engine_root
    assert server.engine_root in words(made, is_ok=True)
    assert fleet.containers(server) == []


def test_checks_and_visits_read_the_disk_that_holds_the_engines_folder(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fleet import facts

    asked: list[str] = []
    read = facts.read_facts

    def note(connection: Any, docker_socket: str, docker_root: str = "", *more: Any) -> Any:
        asked.append(docker_root)
        return read(connection, docker_socket, docker_root, *more)

    monkeypatch.setattr(facts, "read_facts", note)
    server = fleet.servers[0]
    with fleet.reach(server) as reached:
        folder = reached.engine.info()["DockerRootDir"]
    Server.objects.filter(pk=server.pk).update(
        engine_id=None, engine_root="", boot_id=None, host_fingerprint=None
    )
    checks.request_check(server_pk=server.pk)
    monkeypatch.setattr(checks, "make_throwaways", lambda **_fields: [])
    jobs.check_server(server.pk)
    Server.objects.exclude(pk=server.pk).update(status=Server.Status.RETIRED)
    for shard in range(settings.SHARDS):
        jobs.visit_servers(shard)
    Server.objects.update(status=Server.Status.HEALTHY)
    assert asked == [folder, folder]


def test_a_machine_without_its_public_address_is_told_which_one_to_name(fleet: Fleet) -> None:
    server = fleet.servers[0]
    Server.objects.filter(pk=server.pk).update(address="198.51.100.7", ssh_host=server.address)
    made = check(server)
    assert made.status == "failed"
    said = words(made, is_ok=False)
    assert "does not have the address 198.51.100.7" in said
    assert "--bind-address" in said
    assert f"most likely {server.address}" in said
    assert fleet.containers(server) == []


def test_a_wrong_address_on_the_machine_is_named(fleet: Fleet) -> None:
    server = fleet.servers[0]
    Server.objects.filter(pk=server.pk).update(bind_address="10.255.0.9")
    assert "10.255.0.9" in words(check(server), is_ok=False)


def test_a_port_that_a_stranger_has_is_named_and_another_one_taken(fleet: Fleet) -> None:
    server = fleet.servers[0]
    host = fleet.host_of(server)
    host.take_port(server.tcp_port_first)
    host.take_port(server.tcp_port_first + 1)
    made = check(server)
    assert (made.status, words(made, is_ok=False)) == ("done", "")
    said = words(made, is_ok=True)
    for port in (server.tcp_port_first, server.tcp_port_first + 1):
        assert f"has port {port}," in said
    assert fleet.containers(server) == []
    assert not Relay.objects.exists()


def test_a_range_that_strangers_have_whole_is_refused_with_its_ports(fleet: Fleet) -> None:
    server = fleet.servers[0]
    first = server.tcp_port_first
    Server.objects.filter(pk=server.pk).update(tcp_port_last=first + 1, capacity=2)
    for port in (first, first + 1):
        fleet.host_of(server).take_port(port)
    made = check(server)
    assert made.status == "failed"
    assert f"the ports {first}" in words(made, is_ok=False)


@sandbox_only
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"podman": True}, "This is podman, not a Docker Engine"),
        ({"machine": "aarch64"}, "The panel has no relay image for arm64, only for amd64"),
        ({"machine": "riscv64"}, "The panel has no relay image for riscv64, only for amd64"),
        ({"no_forwarding": True}, "net.ipv4.ip_forward=1"),
    ],
)
def test_what_cannot_run_relays_is_refused_in_a_sentence(
    fleet: Fleet, fault: dict[str, Any], said: str
) -> None:
    server = fleet.servers[0]
    fleet.host_of(server).fault(**fault)
    pool().close()
    made = check(server)
    assert made.status == "failed"
    assert said in words(made, is_ok=False)
    assert said.split(":")[0] in made.reason or "forwards no IPv4" in made.reason


@sandbox_only
def test_of_images_for_several_machines_the_right_one_is_loaded(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "IMAGE_DIR", tmp_path)
    images.install_image(derper=None)
    images.install_gate_image()
    server = fleet.servers[0]
    fleet.host_of(server).fault(machine="aarch64")
    pool().close()
    assert "no relay image for arm64" in words(check(server), is_ok=False)

    for build, link in (
        (build_placeholder, images.RELAY_LINK),
        (images.build_gate_placeholder, images.GATE_LINK),
    ):
        images._give_out(build(tmp_path, "arm64"), link)
    for one in fleet.servers[:2]:
        assert check(one).status == "done"
        with fleet.reach(one) as reached:
            kinds = {
                reached.engine.inspect_image(image["Id"])["Architecture"]
                for image in reached.engine.images()
                if images.find_image("", reached.engine.architecture).tag in (image["RepoTags"] or [])
            }
        assert kinds == ({"arm64"} if one == server else {"amd64"})


@sandbox_only
def test_an_engine_that_lists_no_processes_passes_and_one_that_takes_no_list_does_not(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    from containers import gate_list

    server = fleet.servers[0]
    fleet.host_of(server).fault(top_refused="runc did not terminate successfully: exit status 1: unknown")
    assert check(server).status == "done"

    def refuse(*_args: Any) -> None:
        raise gate_list.ListNotTaken()

    monkeypatch.setattr(gate_list, "activate_list", refuse)
    made = check(server)
    assert (made.status, made.error_code) == ("failed", "list_not_taken")
    assert "did not take up the new list" in made.reason
    assert fleet.containers(server) == []


def test_a_customers_relay_is_refused_where_no_image_fits(
    fleet: Fleet, work: Callable[..., None], rental: Any
) -> None:
    if IS_LAB:
        pytest.skip("the lab's hosts have one kind of machine")
    server = fleet.servers[0]
    fleet.host_of(server).fault(machine="aarch64")
    pool().close()
    work()
    assert not Relay.objects.filter(server=server, status="running").exists()
    assert Relay.objects.filter(status="running").count() == 3
