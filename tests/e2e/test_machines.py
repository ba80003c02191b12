"""One machine under two rows, in every way in which that comes about: nothing on it is touched by the second one."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from django.conf import settings
from django.db import connection

from containers import deploy, jobs
from containers.gate import gate_name
from containers.models import Relay, ServerCheck
from containers.services import checks, images, relays
from fleet import services
from fleet.contact import pool
from fleet.models import Server
from serials.rentals.models import Rental
from tests.factories import ServerFactory

from .conftest import IS_LAB, Fleet, assert_in_order, rest_no_more

pytestmark = pytest.mark.django_db(transaction=True)


class Door:
    """Another way to a port: what a second address, a second SSH port or a provider's translation is."""

    def __init__(self, address: str, port: int) -> None:
        self._to = (address, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _from = self._listener.accept()
                far = socket.create_connection(self._to)
                for source, target in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(source, target), daemon=True).start()

    @staticmethod
    def _carry(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def second_row(fleet: Fleet) -> Iterator[Callable[..., Server]]:
    """Makes another row for a server's machine, which is reached through another door."""
    with ExitStack() as stack:

        def make(server: Server, **values: Any) -> Server:
            door = Door(server.address, server.ssh_port)
            stack.callback(door.close)
            numbers = {"address": f"127.0.0.{Server.objects.count()}", "ssh_host": "127.0.0.1"}
            return ServerFactory(
                **{
                    "name": f"again-{door.port}",
                    "region": server.region,
                    "credential": server.credential,
                    "host_key": server.host_key,
                    "docker_socket": server.docker_socket,
                    "ssh_port": door.port,
                    **numbers,
                    **values,
                }
            )

        yield make
        names = [server.name for server in fleet.servers]
        Server.objects.exclude(name__in=names).update(status=Server.Status.RETIRED)
        pool().close()


def check(server: Server) -> ServerCheck:
    """Have a server checked, here and now."""
    made = checks.request_check(server_pk=server.pk)
    jobs.check_server(server.pk)
    return ServerCheck.objects.get(pk=made.pk)


def visit_all() -> None:
    rest_no_more()
    for shard in range(settings.SHARDS):
        jobs.visit_servers(shard)
    for pk in Server.objects.values_list("pk", flat=True):
        jobs.remove_orphans(pk)


def started(fleet: Fleet, server: Server) -> dict[str, str]:
    """What of ours stands on a server and since when it runs; the gate too."""
    with fleet.reach(server) as reached:
        names = [found.name for found in deploy.read_ours(reached.engine, settings.PANEL_ID)]
        names.append(gate_name(settings.PANEL_ID))
        return {name: reached.engine.inspect_container(name)["State"]["StartedAt"] for name in names}


@pytest.fixture
def served(fleet: Fleet, work: Callable[..., None], rental: Rental) -> Server:
    """A server on which a customer's relay and the gate run."""
    work()
    return assert_in_order(fleet, rental)[0].server


def test_a_second_row_for_a_machine_is_refused_with_the_name_of_the_first(
    fleet: Fleet, served: Server, second_row: Callable[..., Server], rental: Rental
) -> None:
    before = started(fleet, served)
    again = second_row(served)
    failed = check(again)
    assert (failed.status, failed.error_code, failed.error_values) == (
        "failed",
        "same_machine",
        {"server": served.name},
    )
    assert f"“{served.name}”" in failed.reason
    again.refresh_from_db()
    assert (again.status, again.boot_id) == ("new", None)
    for _time in range(2):
        visit_all()
    assert started(fleet, served) == before
    assert_in_order(fleet, rental)
    # The first row is retired, so the machine is free.
    Relay.objects.update(status="released", slot=None)
    services.retire_server(server=served, by=None)
    with fleet.reach(again):
        pass
    again.refresh_from_db()
    assert again.boot_id is not None


def test_two_rows_in_use_for_one_machine_never_touch_each_others_relays(
    fleet: Fleet, served: Server, second_row: Callable[..., Server], rental: Rental
) -> None:
    before = started(fleet, served)
    again = second_row(served, status=Server.Status.HEALTHY)
    # A relay of the second row, which it made before anybody looked whose machine it is.
    checks.make_throwaways(server=again, now=rental.created_at)
    for _time in range(2):
        visit_all()
    again.refresh_from_db()
    assert again.status == "unhealthy"
    assert served.name in again.reason
    assert again.next_contact_at is not None
    jobs.apply_gate(again.pk)
    assert started(fleet, served) == before
    checks.drop_throwaways(server=again)
    assert_in_order(fleet, rental)


def test_relays_of_a_second_row_from_before_can_be_taken_away_and_the_row_retired(
    fleet: Fleet, served: Server, second_row: Callable[..., Server], rental: Rental
) -> None:
    before = started(fleet, served)
    again = second_row(served, status=Server.Status.HEALTHY)
    relay = relays.new_relay(server=again, derp_port=20500, stun_port=20500, now=rental.created_at)
    relay.rental, relay.status = rental, Relay.Status.RUNNING
    relay.save()
    with fleet.reach(served) as reached:
        archive = images.current_image(reached.engine.architecture)
        relay.server = served
        deploy.make_so(reached.engine, relays.spec_of(relay, archive.tag), archive, lambda _step: None)
        relay.server = again
    visit_all()
    assert relay.pk in {found.relay_id for found in fleet.containers(served)}
    assert started(fleet, served).items() > before.items()

    rest_no_more()
    assert relays.give_up(relay)
    jobs.apply_relay(relay.pk)
    relay.refresh_from_db()
    assert relay.status == "released"
    assert started(fleet, served) == before
    services.retire_server(server=again, by=None)
    visit_all()
    assert started(fleet, served) == before
    assert_in_order(fleet, rental)


def test_a_machine_whose_row_nobody_has_read_yet_is_known_by_what_stands_on_it(
    fleet: Fleet, served: Server, second_row: Callable[..., Server], rental: Rental
) -> None:
    before = started(fleet, served)
    # As in the database of a panel that did not ask machines yet; and its first door is shut.
    Server.objects.update(engine_id=None, engine_root="", host_fingerprint=None, boot_id=None)
    Server.objects.filter(pk=served.pk).update(host_key="ssh-ed25519 AAAA", ssh_port=9)
    failed = check(second_row(served))
    assert failed.error_values == {"server": served.name}
    Server.objects.filter(pk=served.pk).update(host_key=served.host_key, ssh_port=served.ssh_port)
    pool().close()
    assert started(fleet, served) == before


def test_of_two_checks_of_one_machine_at_one_moment_one_takes_it(
    fleet: Fleet, second_row: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = fleet.servers[0]
    rows = [second_row(server), second_row(server)]
    services.retire_server(server=server, by=None)
    meet = threading.Barrier(2, timeout=60)
    from fleet import identity

    look = identity.rivals_of

    def look_together(*args: Any) -> Any:
        found = look(*args)
        meet.wait()
        return found

    def reach(row: Server) -> None:
        from fleet.contact import contact

        try:
            with contextlib.suppress(services.SameMachine), contact(row):
                pass
        finally:
            connection.close()

    threads = [threading.Thread(target=reach, args=(row,)) for row in rows]
    with monkeypatch.context() as patched:
        patched.setattr(identity, "rivals_of", look_together)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert Server.objects.filter(pk__in=[row.pk for row in rows], boot_id__isnull=False).count() == 1


def test_a_row_that_is_led_to_another_rows_machine_stops_there(
    fleet: Fleet, served: Server, rental: Rental, work: Callable[..., None]
) -> None:
    before = started(fleet, served)
    lost = next(server for server in fleet.servers if server.pk != served.pk)
    services.update_server(
        server=lost,
        by=None,
        ssh_host=served.address,
        ssh_port=served.ssh_port,
        docker_socket=served.docker_socket,
    )
    lost.refresh_from_db()
    assert lost.boot_id is None
    # Not even the host key tells: it was confirmed, or the machines are copies of one another.
    Server.objects.filter(pk=lost.pk).update(host_key=served.host_key, credential=served.credential)
    visit_all()
    lost.refresh_from_db()
    assert (lost.status, served.name in lost.reason) == ("unhealthy", True)
    assert started(fleet, served) == before
    home = fleet.host_of(lost)
    Server.objects.filter(pk=lost.pk).update(
        host_key=home.host_key, ssh_host="", ssh_port=home.ssh_port, docker_socket=home.docker_socket
    )
    visit_all()
    lost.refresh_from_db()
    assert lost.status == "healthy"
    pool().close()


@pytest.mark.skipif(IS_LAB, reason="the lab's hosts share the kernel that would have to start anew")
@pytest.mark.parametrize("is_reinstalled", [False, True])
def test_a_machine_that_was_started_anew_or_got_another_engine_is_the_same(
    fleet: Fleet, served: Server, second_row: Callable[..., Server], is_reinstalled: bool
) -> None:
    served.refresh_from_db()
    known = (served.engine_id, served.boot_id)
    host = fleet.host_of(served)
    if is_reinstalled:
        host.change_engine()
    else:
        host.break_it("refuses")
        host.heal()
    pool().close()
    again = second_row(served)
    failed = check(again)
    assert failed.error_values == {"server": served.name}
    visit_all()
    served.refresh_from_db()
    assert served.status == "healthy"
    assert (served.engine_id == known[0], served.boot_id == known[1]) == (not is_reinstalled, is_reinstalled)
