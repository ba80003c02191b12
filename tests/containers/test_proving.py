"""What a test of a relay is compared with: what its server, other servers and other relays see of the panel."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from django.utils import timezone

if TYPE_CHECKING:
    from containers.derp.probe import ProbeTarget
    from containers.models import Relay
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
    ("reached_at", "client", "stored"),
    [("", PANEL, None), ("10.0.0.9", PANEL, None), ("own", PANEL, PANEL), ("own", "", None)],
)
def test_only_what_the_public_address_sees_counts(
    relays: list[Relay], reached_at: str, client: str, stored: str | None
) -> None:
    from dataclasses import replace

    from fleet.facts import parse_facts
    from fleet.services import record_facts
    from tests.fleet.test_facts import ALPINE

    server = relays[0].server
    facts = replace(parse_facts(ALPINE, 0), ssh_client=client)
    at = server.address if reached_at == "own" else reached_at
    record_facts(server=server, facts=facts, reached_at=at, now=timezone.now())
    server.refresh_from_db()
    assert server.panel_seen_as == stored


def test_many_relays_cost_as_many_queries_as_one(
    relays: list[Relay], django_assert_num_queries: object
) -> None:
    from containers.services.proving import proof_targets

    for relay in relays:
        see(relay, PANEL)
    for some in (relays[:1], relays):
        with django_assert_num_queries(2):  # type: ignore[operator]
            assert len(proof_targets(some, timezone.now())) == len(some)
