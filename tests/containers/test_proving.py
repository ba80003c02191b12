"""What a test of a relay is compared with: what its server, other servers and other relays see of the panel."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from django.utils import timezone

if TYPE_CHECKING:
    from containers.derp.probe import ProbeTarget
    from containers.models import Relay
    from fleet.models import Server
    from serials.rentals.models import Rental

pytestmark = pytest.mark.django_db
PANEL, OTHER_EGRESS = "198.51.100.7", "198.51.100.8"


def see(relay: Relay, address: str | None, *, minutes_ago: float = 0) -> None:
    """What the relay's server saw of us at its last visit."""
    from fleet.models import Server

    visited_at = timezone.now() - timedelta(minutes=minutes_ago)
    Server.objects.filter(pk=relay.server_id).update(panel_seen_as=address, last_visit_at=visited_at)


def target(relay: Relay) -> ProbeTarget:
    from containers.models import Relay as Row
    from containers.services.proving import proof_target

    return proof_target(Row.objects.select_related("server").get(pk=relay.pk), timezone.now())


@pytest.fixture
def relays(rental: Rental) -> list[Relay]:
    """Three relays on three servers, each with a passed test."""
    from containers.derp.probe import ProbeResult
    from containers.services.relays import record_probe

    made = list(rental.relays.wanted().select_related("server"))
    for relay in made:
        record_probe(relay=relay, result=ProbeResult(ok=True, mapped_address=PANEL))
    return made


def test_a_relay_must_tell_what_its_server_sees(relays: list[Relay]) -> None:
    for relay in relays:
        see(relay, PANEL)
    wanted = target(relays[0])
    assert (wanted.expect_source, wanted.also_seen, wanted.judges_source) == (PANEL, (PANEL,), True)
    assert set(wanted.witnesses) == {(relay.server.address, relay.stun_port) for relay in relays[1:]}


def test_addresses_that_other_servers_saw_are_ours_too(relays: list[Relay]) -> None:
    see(relays[0], PANEL)
    see(relays[1], OTHER_EGRESS)
    see(relays[2], "10.0.0.5")
    assert set(target(relays[0]).also_seen) == {PANEL, OTHER_EGRESS}


def test_nothing_is_expected_when_the_server_was_not_asked_lately(relays: list[Relay]) -> None:
    see(relays[0], PANEL, minutes_ago=11)
    see(relays[1], None)
    assert target(relays[0]).expect_source is None
    assert target(relays[1]).expect_source is None
    assert target(relays[1]).judges_source


def test_a_panel_beside_the_relays_does_not_judge_them(relays: list[Relay]) -> None:
    see(relays[0], "172.17.0.3")
    assert not target(relays[0]).judges_source


def test_a_relay_that_failed_its_last_test_is_no_witness(relays: list[Relay]) -> None:
    from containers.derp.probe import ProbeResult
    from containers.services.relays import record_probe

    for relay in relays:
        see(relay, PANEL)
    record_probe(relay=relays[1], result=ProbeResult(ok=False, cause="stun_silent"))
    assert target(relays[0]).witnesses == ((relays[2].server.address, relays[2].stun_port),)


@pytest.mark.parametrize(
    ("reached_at", "client", "stored", "privately"),
    [
        ("", PANEL, None, None),
        ("own", PANEL, PANEL, None),
        ("own", "", None, None),
        ("10.0.0.9", "10.0.0.5", None, "10.0.0.5"),
        ("10.0.0.9", "", None, None),
        # From its own address: the panel is on that machine, or something there stands between.
        ("172.17.0.1", "10.0.0.9", None, None),
    ],
)
def test_each_way_to_a_server_tells_an_address_of_ours(
    relays: list[Relay], reached_at: str, client: str, stored: str | None, privately: str | None
) -> None:
    server = visit(relays[0], reached_at=reached_at, client=client, at="10.0.0.9")
    assert server.panel_seen_as == stored
    assert server.panel_seen_privately_as == privately
    assert server.private_address == ("10.0.0.9" if privately else None)


def visit(relay: Relay, *, reached_at: str, client: str, at: str) -> Server:
    """What a visit writes that came from `client` to the machine's own address `at`, on the way to `reached_at`."""
    from fleet.facts import parse_facts
    from fleet.services import record_facts
    from tests.fleet.test_facts import ALPINE

    server = relay.server
    facts = replace(parse_facts(ALPINE, 0), ssh_client=client, ssh_server=at)
    if reached_at == "own":
        reached_at = server.address
    record_facts(server=server, facts=facts, reached_at=reached_at, now=timezone.now())
    server.refresh_from_db()
    return server


PRIVATE_PANEL = "10.0.0.5"


@pytest.mark.parametrize("minutes", [0, 30])
@pytest.mark.parametrize(
    ("client", "at", "mapped", "cause"),
    [
        # A panel in a container of another machine: neither its socket's address nor the internet's is what a relay in the same
        # private network sees, but the machine's.
        (PRIVATE_PANEL, "10.0.0.9", PRIVATE_PANEL, ""),
        (PRIVATE_PANEL, "10.0.0.9", PANEL, ""),
        (PRIVATE_PANEL, "10.0.0.9", "172.18.0.1", "mapped_private"),
        (PRIVATE_PANEL, "10.0.0.9", "10.0.0.9", "mapped_private"),
        ("172.31.5.5", "172.31.6.6", "172.31.5.5", ""),
        ("172.31.5.5", "172.31.6.6", "172.18.0.1", "mapped_private"),
        # The server's own address says nothing of ours.
        ("172.17.0.1", "172.17.0.1", "172.17.0.1", "mapped_private"),
    ],
)
def test_a_relay_may_tell_what_its_server_sees_on_a_private_way(
    relays: list[Relay], client: str, at: str, mapped: str, cause: str, minutes: int
) -> None:
    from containers.derp.source import find_fault
    from fleet.models import Server

    server = visit(relays[0], reached_at=at, client=client, at=at)
    visited_at = timezone.now() - timedelta(minutes=minutes)
    Server.objects.filter(pk=server.pk).update(address="198.51.100.77", last_visit_at=visited_at)
    wanted = target(relays[0])
    assert wanted.judges_source
    found = find_fault(
        mapped=mapped,
        host=wanted.host,
        expected=wanted.expect_source,
        own="172.17.0.2",
        also=wanted.also_seen,
    )
    assert found == cause


def test_a_panel_in_a_container_on_the_server_judges_no_relays_whatever_way_it_takes(
    relays: list[Relay],
) -> None:
    visit(relays[0], reached_at="172.17.0.1", client="172.18.0.2", at="172.17.0.1")
    assert not target(relays[0]).judges_source


def test_what_a_server_saw_of_us_before_is_ours_while_it_is_silent(relays: list[Relay]) -> None:
    see(relays[0], PRIVATE_PANEL, minutes_ago=30)
    wanted = target(relays[0])
    assert (wanted.expect_source, wanted.also_seen) == (None, (PRIVATE_PANEL,))


def test_many_relays_cost_as_many_queries_as_one(
    relays: list[Relay], django_assert_num_queries: object
) -> None:
    from containers.services.proving import proof_targets

    for relay in relays:
        see(relay, PANEL)
    for some in (relays[:1], relays):
        with django_assert_num_queries(2):  # type: ignore[operator]
            assert len(proof_targets(some, timezone.now())) == len(some)
