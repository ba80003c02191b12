"""Draining a server: what its page says before is what becomes of its relays, and what has nowhere to go stays until there is room."""

import json
import re
from html import unescape
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone, translation

from accounts.models import OperationLog, User
from containers import jobs
from containers.models import Relay
from containers.services.leaving import Leaving, foresee_leaving
from derpmgmt.lib.commands import describe_error
from fleet.models import Server
from serials.rentals.models import Rental
from tests.api import Api
from tests.factories import RelayFactory, RentalFactory, ServerFactory, UserFactory, WholeRentalFactory
from tests.panel import world

pytestmark = pytest.mark.django_db


@pytest.fixture
def staff(db: None) -> Client:
    client = world.enter(User.Role.ADMIN, has_factor=True)
    User.objects.update(language="en")
    return client


def stand(server: Server, **given: object) -> Rental:
    """A customer with relays on this server and on two others that hold nothing more."""
    rental = RentalFactory(days=60, **given)
    for slot, where in enumerate((server, full(), full()), start=1):
        RelayFactory(rental=rental, slot=slot, server=where)
    return rental


def full() -> Server:
    return ServerFactory(whole=True, capacity=1)


def foresee(server: Server) -> dict[int, tuple[str, str]]:
    """By relay: where the next one is to stand, and the obstacle."""
    found = foresee_leaving(server=server, now=timezone.now())
    return {one.relay.pk: (str(one.to or ""), str(one.obstacle or "")) for one in found}


def made(server: Server) -> dict[int, tuple[str, str]]:
    """By relay that stands on the server: where its successor stands."""
    found = {}
    for relay in Relay.objects.live().filter(server=server):
        successor = relay.successors.live().select_related("server").first()
        found[relay.pk] = (str(successor.server), "") if successor else ("", "no_room")
    return found


def test_what_is_foreseen_is_what_becomes_of_each(staff: Client) -> None:
    server = ServerFactory(whole=True)
    for _number in range(5):
        stand(server)
    # Three places for five relays, on two servers; each takes the room that those before it leave.
    ServerFactory(whole=True, name="one", capacity=1)
    ServerFactory(whole=True, name="two", capacity=2)
    before = foresee(server)
    assert sorted(before.values()) == [("", "no_room")] * 2 + [("one", "")] + [("two", "")] * 2
    url = f"/admin/fleet/server/{server.pk}/drain/do/"
    page = unescape(staff.get(url).content.decode())
    assert "1 relay moves to one." in page
    assert "2 relays move to two." in page
    assert "2 relays have nowhere to go and stay until servers have room" in page
    assert made(server) == dict.fromkeys(before, ("", "no_room")), "only looked at"

    answer = unescape(staff.post(url, {"reason": "old machine"}, follow=True).content.decode())
    assert "is being drained. 1 relay moves to one. 2 relays move to two." in answer
    assert made(server) == before
    server.refresh_from_db()
    assert (server.status, server.reason) == (Server.Status.DRAINING, "old machine")
    assert OperationLog.objects.filter(action="server.draining_started").count() == 1
    assert OperationLog.objects.filter(action="relay.given_up").count() == 3


def test_the_tab_says_the_same_with_names_and_ways(staff: Client) -> None:
    server = ServerFactory(whole=True)
    first, second = stand(server), stand(server)
    RelayFactory(rental=None, slot=None, server=server)
    ServerFactory(whole=True, name="roomy", capacity=1)
    text = unescape(staff.get(f"/admin/fleet/server/{server.pk}/change/?tab=leaving").content.decode())
    rows = [row for row in re.findall(r"<tr>.*?</tr>", text, re.DOTALL) if "data-label" in row]
    assert len(rows) == 3
    # Who comes first has the room; who has none is named first.
    assert str(second.user) in rows[0]
    assert "no other server has room" in rows[0]
    assert str(first.user) in rows[1]
    assert "roomy" in rows[1]
    assert "throw-away" in rows[2]
    assert "goes by itself" in rows[2]


def test_what_had_no_room_is_moved_once_there_is_some() -> None:
    server = ServerFactory(whole=True)
    rental = stand(server)
    Server.objects.filter(pk=server.pk).update(status=Server.Status.DRAINING)
    jobs.drain_servers()
    relay = rental.relays.get(slot=1)
    assert made(server) == {relay.pk: ("", "no_room")}
    ServerFactory(whole=True, name="late")
    jobs.drain_servers()
    assert made(server) == {relay.pk: ("late", "")}
    assert foresee(server) == {relay.pk: ("late", "has_successor")}
    # Twice, or after a death in the middle, it is the same.
    jobs.drain_servers()
    assert relay.successors.live().count() == 1


def test_a_successor_that_comes_up_there_goes_and_the_old_one_stays() -> None:
    server = ServerFactory(whole=True)
    rental = WholeRentalFactory()
    old = rental.relays.get(slot=1)
    coming = RelayFactory(
        rental=rental, slot=None, server=server, replaces=old, proven_at=None, status="planned"
    )
    Server.objects.filter(pk=server.pk).update(status=Server.Status.DRAINING)
    assert foresee(server) == {coming.pk: ("", "")}
    jobs.drain_servers()
    coming.refresh_from_db()
    old.refresh_from_db()
    assert coming.status == Relay.Status.REMOVING
    assert (old.status, old.slot) == (Relay.Status.RUNNING, 1)


def test_only_servers_that_were_bought_are_foreseen() -> None:
    server, fitting = ServerFactory(whole=True), ServerFactory(whole=True, name="fitting")
    rental = stand(server)
    ServerFactory(whole=True, name="elsewhere")
    span = rental.spans.get()
    span.servers.set([server, fitting, *(relay.server for relay in rental.relays.filter(slot__gt=1))])
    relay = rental.relays.get(slot=1)
    assert foresee(server) == {relay.pk: ("fitting", "")}
    Server.objects.filter(pk=fitting.pk).update(capacity=0)
    assert foresee(server) == {relay.pk: ("", "no_room")}


def test_who_has_no_rights_any_more_needs_no_other_relay() -> None:
    server = ServerFactory(whole=True)
    rental = stand(server)
    ServerFactory(whole=True)
    Rental.objects.update(paused_at=timezone.now())
    assert foresee(server) == {rental.relays.get(slot=1).pk: ("", "")}
    Server.objects.filter(pk=server.pk).update(status=Server.Status.DRAINING)
    jobs.drain_servers()
    assert not Relay.objects.filter(replaces__isnull=False).exists()


def test_draining_ends_and_the_server_is_in_use_again(staff: Client) -> None:
    server = ServerFactory(whole=True)
    staff.post(f"/admin/fleet/server/{server.pk}/drain/do/", {})
    assert not Server.objects.usable().filter(pk=server.pk).exists()
    staff.post(f"/admin/fleet/server/{server.pk}/end-draining/do/", {})
    assert Server.objects.usable().filter(pk=server.pk).exists()


def test_to_foresee_costs_the_same_for_many_relays() -> None:
    server = ServerFactory(whole=True)

    def cost() -> int:
        with CaptureQueriesContext(connection) as queries:
            found: list[Leaving] = foresee_leaving(server=server, now=timezone.now())
        assert found
        return len(queries)

    stand(server)
    few = cost()
    for _number in range(6):
        stand(server)
    assert cost() == few <= 9


def run(*arguments: str) -> Any:
    out = StringIO()
    with translation.override("en"):
        call_command(*arguments, "--json", stdout=out, stderr=StringIO())
    return json.loads(out.getvalue())


def refused(*arguments: str) -> str:
    with pytest.raises(CommandError) as error:
        run(*arguments)
    return str(describe_error(error.value)["code"])


def crowd() -> Server:
    """A server with three relays, of which two can go: to `one` and `two`."""
    server = ServerFactory(whole=True, name="old")
    for _number in range(3):
        stand(server)
    for name in ("one", "two"):
        ServerFactory(whole=True, name=name, capacity=1)
    return server


def test_the_command_does_what_the_button_does() -> None:
    server = crowd()
    before = foresee(server)
    told = run("server_drain", "old", "--dry-run")
    assert told["status"] == "healthy"
    assert {
        row["id"]: (row["to"] or "", "no_room" if row["stays"] else "") for row in told["relays"]
    } == before
    assert made(server) == dict.fromkeys(before, ("", "no_room")), "only looked at"
    done = run("server_drain", "old", "--reason", "old machine")
    assert (done["status"], done["reason"], done["relays"]) == ("draining", "old machine", told["relays"])
    assert made(server) == before
    assert all(row["email"] for row in done["relays"])
    # Once more changes nothing; taken back, what has moved stays there.
    again = run("server_drain", "old")
    assert (again["status"], again["relays"], again["reason"]) == ("draining", [], "old machine")
    assert made(server) == before
    assert run("server_drain", "old", "--undo")["status"] == "healthy"
    assert made(server) == before
    assert refused("server_drain", "old", "--undo") == "wrong_state"
    assert refused("server_drain", "old", "--undo", "--dry-run")
    assert refused("server_drain", "nowhere") == "no_server"
    actions = list(OperationLog.objects.filter(target="old").order_by("pk").values_list("action", flat=True))
    assert actions == ["server.draining_started", "server.draining_ended"]


def test_the_api_does_what_the_button_does() -> None:
    server, admin = crowd(), UserFactory(role=User.Role.ADMIN)
    api, before = Api(admin), foresee(server)
    names = {"": None} | {name: Server.objects.get(name=name).pk for name in ("one", "two")}
    said = api.post(f"server/{server.pk}/drain", {"reason": "old machine"}).json()
    assert said["message"].startswith(
        "old is being drained. 1 relay moves to one. 1 relay moves to two. 1 relay has"
    )
    assert said["status"] == "draining"
    told = {row["container_id"]: (row["to_server_id"], row["stays"]) for row in said["relays"]}
    assert told == {pk: (names[to], obstacle == "no_room") for pk, (to, obstacle) in before.items()}
    assert {row["user_id"] for row in said["relays"]} == set(
        Relay.objects.filter(pk__in=before).values_list("rental__user_id", flat=True)
    )
    assert made(server) == before
    again = api.post(f"server/{server.pk}/drain", {}).json()
    assert (again["message"], again["relays"]) == ("old is being drained already.", [])
    ended = api.post(f"server/{server.pk}/end_draining").json()
    assert (ended["status"], ended["success"]) == ("healthy", True)
    answer = api.post(f"server/{server.pk}/end_draining")
    assert (answer.status_code, answer.json()["code"]) == (409, "wrong_state")
    gone = ServerFactory(status=Server.Status.RETIRED)
    answer = api.post(f"server/{gone.pk}/drain", {})
    assert (answer.status_code, answer.json()["code"]) == (409, "wrong_state")
