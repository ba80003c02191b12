"""People and serial numbers to test with. Models are imported late: this file is read before Django is set up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from accounts.models import User
    from fleet.models import Server
    from serials.numbers.models import SerialBatch, SerialNumber


@pytest.fixture
def customer(db: None) -> User:
    from accounts.services import create_user

    return create_user(email="li@example.com", password="a-good-long-word")


@pytest.fixture
def make_batch(db: None) -> Callable[..., SerialBatch]:
    from serials.numbers.services import create_batch

    def make(**fields: Any) -> SerialBatch:
        defaults: dict[str, Any] = {"name": "test", "days": 30, "count": 1, "by": None, "is_paid": True}
        return create_batch(**(defaults | fields))

    return make


@pytest.fixture
def make_serial(make_batch: Callable[..., SerialBatch]) -> Callable[..., SerialNumber]:
    def make(**fields: Any) -> SerialNumber:
        return make_batch(**fields).serials.get()

    return make


@pytest.fixture
def servers(db: None) -> list[Server]:
    from fleet.models import Region, Server, SshCredential

    region, _ = Region.objects.get_or_create(code="sh", defaults={"name_zh": "上海", "name_en": "Shanghai"})
    credential = SshCredential.objects.create(name="key")
    return [
        Server.objects.create(name=f"sh-{n}", region=region, credential=credential, address=f"203.0.113.{n}")
        for n in range(1, 5)
    ]


@pytest.fixture
def announced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The facts that were announced."""
    from derpmgmt.lib import queue

    facts: list[tuple[str, int]] = []
    monkeypatch.setattr(queue, "announce", lambda fact, pk: facts.append((fact, pk)))
    monkeypatch.setattr(queue, "announce_all", lambda fact, pks: facts.extend((fact, pk) for pk in pks))
    return facts


@pytest.fixture
def english() -> Iterator[None]:
    from django.utils import translation

    with translation.override("en"):
        yield
