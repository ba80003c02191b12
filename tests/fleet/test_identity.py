"""Which of two rows has a machine, by what the machines say of themselves; the hosts are made up here."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from django.utils import timezone

from fleet import contact as contacts
from fleet import identity
from fleet.contact import contact
from fleet.machine import Machine, SameMachine, parse_machine
from fleet.models import Server
from fleet.ssh import RemoteError, TimedOut
from tests.factories import ServerFactory

pytestmark = pytest.mark.django_db
NOW = timezone.now()


def machine(engine: str = "e", boot: str = "boot-0001", key: str = "k", up_since: datetime = NOW) -> Machine:
    return Machine(engine, "/var/lib/docker", f"SHA256:{key}", boot, up_since)


class World:
    """Where each row leads to, by its SSH port; a port that leads nowhere does not answer."""

    def __init__(self) -> None:
        self.machines: dict[int, Machine] = {}
        self.reached: list[int] = []

    def row(self, there: Machine | None, **values: Any) -> Server:
        server = ServerFactory()
        Server.objects.filter(pk=server.pk).update(
            **{"ssh_port": 1000 + server.pk, "host_key": "ssh-ed25519 AAAA", "status": "healthy", **values}
        )
        server.refresh_from_db()
        self.lead(server, there)
        return server

    def lead(self, server: Server, there: Machine | None) -> None:
        if there is None:
            self.machines.pop(server.ssh_port, None)
        else:
            self.machines[server.ssh_port] = there

    def reach(self, server: Server) -> None:
        """As a job does it: what comes after this would touch the host."""
        with contact(Server.objects.select_related("credential").get(pk=server.pk)):
            pass

    def refused(self, server: Server) -> str:
        """The error's code and the row that it names."""
        with pytest.raises(SameMachine) as refusal:
            self.reach(server)
        return f"{refusal.value.code} {refusal.value.values['server']}"


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()

    class Pool:
        def get(self, endpoint: Any, timeout: float | None = None) -> Any:
            if endpoint.port not in made.machines:
                raise TimedOut()
            made.reached.append(endpoint.port)
            connection = SimpleNamespace(
                port=endpoint.port, ping=lambda: True, opened_at=0.0, opening_seconds=None
            )
            connection.recall = lambda *_what: None
            connection.remember = connection.forget = lambda *_what: None
            return connection

        def drop(self, endpoint: Any) -> None:
            pass

    monkeypatch.setattr(contacts, "pool", Pool)
    monkeypatch.setattr(
        contacts, "open_engine", lambda *_args: SimpleNamespace(close=lambda: None, agreed=None)
    )
    monkeypatch.setattr(contacts, "read_machine", lambda connection, _engine: made.machines[connection.port])
    return made


def test_a_row_takes_its_machine_and_keeps_it_over_restarts(world: World) -> None:
    row = world.row(machine())
    world.reach(row)
    world.lead(row, machine(boot="boot-0002"))
    world.reach(row)
    world.lead(row, machine(engine="another", boot="boot-0002"))
    world.reach(row)
    row.refresh_from_db()
    assert (row.engine_id, row.boot_id, row.host_fingerprint) == ("another", "boot-0002", "SHA256:k")
    assert (row.status, row.contact_failures) == ("healthy", 0)


@pytest.mark.parametrize(
    "second",
    [
        machine(),
        machine(key="of another sshd"),
        machine(engine="made anew"),
    ],
    ids=["all the same", "two SSH servers with keys of their own", "two Engines"],
)
@pytest.mark.parametrize("status", ["new", "healthy", "unhealthy", "maintenance", "draining"])
def test_the_machine_of_a_row_in_use_is_refused(world: World, second: Machine, status: str) -> None:
    first = world.row(machine(), status=status)
    world.reach(first)
    again = world.row(second, status="new")
    assert world.refused(again) == f"same_machine {first.name}"
    world.lead(first, None)
    assert world.refused(again) == f"same_machine {first.name}"
    again.refresh_from_db()
    assert again.boot_id is None
    Server.objects.filter(pk=first.pk).update(status="retired")
    world.reach(again)


@pytest.mark.parametrize(
    "there",
    [machine(), machine(key="of another sshd"), machine(engine="made anew")],
    ids=["all the same", "two SSH servers with keys of their own", "two Engines"],
)
def test_of_two_rows_that_come_at_the_same_moment_one_gets_the_machine(
    world: World, monkeypatch: pytest.MonkeyPatch, there: Machine
) -> None:
    first, again = world.row(machine(), status="new"), world.row(there, status="new")
    look = identity.rivals_of

    def look_too_early(server: Server, found: Machine) -> list[Server]:
        rivals = look(server, found)
        if server.pk == again.pk:
            identity.take_machine(server=first, machine=machine())
        return rivals

    monkeypatch.setattr(identity, "rivals_of", look_too_early)
    assert world.refused(again) == f"same_machine {first.name}"
    for row in (first, again):
        row.refresh_from_db()
    assert (first.boot_id, again.boot_id) == ("boot-0001", None)


def test_a_machine_that_was_started_anew_before_the_second_check_is_recognized(world: World) -> None:
    first = world.row(machine())
    world.reach(first)
    anew = machine(boot="boot-0002", up_since=NOW + timedelta(hours=1))
    again = world.row(anew, status="new")
    # The first row leads to it still; or does not answer, so that nobody can tell.
    world.lead(first, anew)
    assert world.refused(again) == f"same_machine {first.name}"
    world.lead(first, None)
    assert world.refused(again) == f"same_machine_unsure {first.name}"
    world.lead(first, machine(boot="boot-0003"))
    world.reach(again)


def test_a_machine_whose_engine_was_made_anew_meanwhile_is_recognized(world: World) -> None:
    first = world.row(machine())
    world.reach(first)
    anew = machine(engine="anew", boot="boot-0002", up_since=NOW + timedelta(hours=1))
    world.lead(first, anew)
    assert world.refused(world.row(anew)) == f"same_machine {first.name}"


@pytest.mark.parametrize("copy", [machine(boot="boot-0002"), machine(engine="anew", boot="boot-0002")])
def test_copies_of_a_machine_are_machines_of_their_own(world: World, copy: Machine) -> None:
    first, second = world.row(machine()), world.row(copy, status="new")
    for _time in range(2):
        world.reach(first)
        world.reach(second)
    assert Server.objects.filter(boot_id__isnull=False).count() == 2


def test_a_copy_that_ran_while_the_first_answered_is_another_though_that_is_silent_now(world: World) -> None:
    first = world.row(machine())
    world.reach(first)
    world.lead(first, None)
    world.reach(world.row(machine(boot="boot-0002", up_since=NOW - timedelta(days=1))))


def test_a_known_copy_that_starts_anew_is_let_go_on_while_the_other_is_silent(world: World) -> None:
    first, second = world.row(machine()), world.row(machine(boot="boot-0002"))
    world.reach(first)
    world.reach(second)
    world.lead(first, None)
    world.lead(second, machine(boot="boot-0003", up_since=NOW + timedelta(hours=1)))
    world.reach(second)
    second.refresh_from_db()
    assert second.boot_id == "boot-0003"


def test_other_machines_with_nothing_in_common_or_one_kernel_only_are_not_asked(world: World) -> None:
    first = world.row(machine())
    world.reach(first)
    world.reached.clear()
    # Containers on one kernel have its boot id, and Engines and SSH servers of their own.
    second = world.row(machine(engine="own", key="own"), host_key="ssh-ed25519 BBBB")
    world.reach(second)
    assert world.reached == [second.ssh_port]


def test_a_row_that_nobody_has_read_is_asked_when_its_pinned_key_is_the_same(world: World) -> None:
    first = world.row(machine())
    again = world.row(machine())
    assert world.refused(again) == f"same_machine {first.name}"
    world.lead(first, None)
    assert world.refused(again) == f"same_machine_unsure {first.name}"


def test_of_two_rows_in_use_that_nobody_has_read_the_older_one_has_the_machine(world: World) -> None:
    first, second = world.row(machine()), world.row(machine())
    assert world.refused(second) == f"same_machine {first.name}"
    world.reach(first)
    for _time in range(2):
        assert world.refused(second) == f"same_machine {first.name}"
        Server.objects.update(next_contact_at=None)
    second.refresh_from_db()
    assert second.status == "unhealthy"
    world.lead(second, machine(engine="f", boot="boot-0002", key="l"))
    world.reach(second)
    second.refresh_from_db()
    assert (second.status, second.contact_failures) == ("healthy", 0)


def test_of_two_rows_that_were_never_checked_the_first_to_come_takes_the_machine(world: World) -> None:
    first, second = world.row(machine(), status="new"), world.row(machine(), status="new")
    world.reach(second)
    assert world.refused(first) == f"same_machine {second.name}"


def test_a_row_in_use_says_at_once_that_its_machine_is_anothers(world: World) -> None:
    first, second = world.row(machine()), world.row(machine(engine="f", boot="boot-0002", key="l"))
    world.reach(first)
    world.reach(second)
    world.lead(second, machine())
    world.refused(second)
    second.refresh_from_db()
    assert second.status == "unhealthy"
    assert first.name in second.reason
    assert second.next_contact_at is not None
    assert second.boot_id == "boot-0002"


def test_a_clone_and_its_first_are_told_apart_by_the_kernel_alone() -> None:
    first = machine()
    assert first.is_same(replace(first, fingerprint="SHA256:l"))
    assert first.is_same(replace(first, engine_id="f"))
    assert not first.is_same(replace(first, boot_id="boot-0002"))
    assert not first.is_same(replace(first, engine_id="f", fingerprint="SHA256:l"))
    assert not first.is_same(replace(first, engine_root="/srv/docker", fingerprint="SHA256:l"))


def test_the_answer_is_read_whatever_stands_around_it() -> None:
    boot = "22866bb8-b386-4250-8e82-cc3908499851"
    said = f"Welcome!\nderpmgmt-machine\n{boot}\n660.52 2412.77\nderpmgmt-end\nbye\n"
    assert parse_machine(said) == (boot, 660.52)


@pytest.mark.parametrize(
    "said",
    [
        "",
        "derpmgmt-machine\nderpmgmt-end\n",
        "derpmgmt-machine\n\n1 1\nderpmgmt-end\n",
        "derpmgmt-machine\nabcdefgh\n",
    ],
)
def test_an_answer_without_a_boot_id_is_refused(said: str) -> None:
    with pytest.raises(RemoteError) as refusal:
        parse_machine(said)
    assert refusal.value.code == "garbage_facts"
