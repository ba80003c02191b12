"""A customer whose three relays run on three of four servers, as rows: no server is spoken to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.containers.rentals import plan, prove

if TYPE_CHECKING:
    from fleet.models import Server
    from serials.rentals.models import Rental


@pytest.fixture
def announced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    from derpmgmt.lib import queue

    facts: list[tuple[str, int]] = []
    monkeypatch.setattr(queue, "announce", lambda fact, pk: facts.append((fact, pk)))
    monkeypatch.setattr(queue, "announce_all", lambda fact, pks: facts.extend((fact, pk) for pk in pks))
    return facts


@pytest.fixture
def servers(db: None) -> list[Server]:
    from fleet.models import Server
    from tests.acl.factories import make_server

    made = [make_server() for _ in range(4)]
    Server.objects.update(status=Server.Status.HEALTHY, host_key="ssh-ed25519 AAAA")
    return list(Server.objects.filter(pk__in=[server.pk for server in made]).order_by("pk"))


@pytest.fixture
def rental(servers: list[Server], announced: list[tuple[str, int]]) -> Rental:
    """A customer whose three relays run."""
    from tests.acl.factories import make_rental

    rental = make_rental(days=30)
    plan(rental)
    prove(rental)
    return rental
