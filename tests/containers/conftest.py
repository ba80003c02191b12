"""A customer whose three relays run on three of four servers, as rows: no server is spoken to."""

import pytest

from derpmgmt.lib import queue
from fleet.models import Server
from serials.rentals.models import Rental
from tests.containers.rentals import plan, prove
from tests.factories import RentalFactory, ServerFactory


@pytest.fixture
def announced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    facts: list[tuple[str, int]] = []
    monkeypatch.setattr(queue, "announce", lambda fact, pk: facts.append((fact, pk)))
    monkeypatch.setattr(queue, "announce_all", lambda fact, pks: facts.extend((fact, pk) for pk in pks))
    return facts


@pytest.fixture
def servers(db: None) -> list[Server]:
    return ServerFactory.create_batch(4, healthy=True)


@pytest.fixture
def rental(servers: list[Server], announced: list[tuple[str, int]]) -> Rental:
    """A customer whose three relays run."""
    rental = RentalFactory()
    plan(rental)
    prove(rental)
    return rental
