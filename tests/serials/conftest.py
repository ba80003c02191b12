"""A customer, servers, and what is announced."""

from collections.abc import Iterator

import pytest
from django.utils import translation

from accounts.models import User
from derpmgmt.lib import queue
from fleet.models import Server
from tests.factories import ServerFactory, UserFactory


@pytest.fixture
def customer(db: None) -> User:
    return UserFactory(email="li@example.com")


@pytest.fixture
def servers(db: None) -> list[Server]:
    return [ServerFactory(name=f"sh-{number}") for number in range(1, 5)]


@pytest.fixture
def announced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The facts that were announced."""
    facts: list[tuple[str, int]] = []
    monkeypatch.setattr(queue, "announce", lambda fact, pk: facts.append((fact, pk)))
    monkeypatch.setattr(queue, "announce_all", lambda fact, pks: facts.extend((fact, pk) for pk in pks))
    return facts


@pytest.fixture
def english() -> Iterator[None]:
    with translation.override("en"):
        yield
