"""A sandbox for each test, on addresses that no other test process uses."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from derpmgmt.sandbox.fleet import Sandbox
from fleet.engine import Engine
from tests.sandbox.parts import connect, load_image


@pytest.fixture
def subnet() -> str:
    return f"127.{100 + os.getpid() % 100}.{secrets.randbelow(200) + 1}"


@pytest.fixture
def sandbox(tmp_path: Path, subnet: str) -> Iterator[Sandbox]:
    with Sandbox(tmp_path / "sandbox", servers=2, subnet=subnet) as running:
        yield running


@pytest.fixture
def engine(sandbox: Sandbox) -> Iterator[Engine]:
    """The first server's Engine, through the panel's client."""
    connection, engine = connect(sandbox.hosts[0])
    yield engine
    engine.close()
    connection.close()


@pytest.fixture
def image(engine: Engine, tmp_path: Path) -> str:
    """The tag of an image on the first server."""
    return load_image(engine, tmp_path / "image")
