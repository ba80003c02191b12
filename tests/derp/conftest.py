"""Relays for the tests: the sandbox's, and the real derper where a binary is named."""

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.derp.parts import (
    AdmissionServer,
    Certificate,
    LoopThread,
    Relay,
    ScriptedServer,
    make_certificate,
    start_derper,
    start_sandbox,
)

DERPER_VARIABLE = "DERPMGMT_TEST_DERPER"


@pytest.fixture
def loop_thread() -> Iterator[LoopThread]:
    loop = LoopThread()
    yield loop
    loop.close()


@pytest.fixture
def start_sandbox_relay(loop_thread: LoopThread) -> Iterator[Callable[..., Relay]]:
    """Start sandbox relays; they are stopped after the test."""
    started: list[Relay] = []

    def start(**options: Any) -> Relay:
        started.append(start_sandbox(loop_thread, **options))
        return started[-1]

    yield start
    for relay in started:
        relay.stop()


@pytest.fixture(params=["sandbox", "derper"])
def start_relay(
    request: pytest.FixtureRequest, start_sandbox_relay: Callable[..., Relay]
) -> Iterator[Callable[..., Relay]]:
    """Start relays of each kind: what a test finds must be true of both."""
    if request.param == "sandbox":
        yield start_sandbox_relay
        return
    binary = os.environ.get(DERPER_VARIABLE)
    if not binary:
        pytest.skip(f"{DERPER_VARIABLE} does not name a derper binary")
    started: list[Relay] = []
    with tempfile.TemporaryDirectory() as folder:

        def start(**options: Any) -> Relay:
            own_folder = Path(folder) / str(len(started))
            own_folder.mkdir()
            started.append(start_derper(binary, own_folder, **options))
            return started[-1]

        yield start
        for relay in started:
            relay.stop()


@pytest.fixture
def relay(start_relay: Callable[..., Relay]) -> Relay:
    """A relay of each kind that admits everybody."""
    return start_relay()


@pytest.fixture
def admission() -> Iterator[AdmissionServer]:
    with AdmissionServer().running() as server:
        yield server


@pytest.fixture(scope="session")
def certificate() -> Certificate:
    return make_certificate("127.0.0.1")


@pytest.fixture
def start_scripted(tmp_path: Path) -> Iterator[Callable[..., ScriptedServer]]:
    """Start servers that do what their script does to every connection."""
    started: list[ScriptedServer] = []

    def start(script: Callable[[Any], None], certificate: Certificate | None = None) -> ScriptedServer:
        started.append(ScriptedServer(script, certificate).start(tmp_path))
        return started[-1]

    yield start
    for server in started:
        server.close()
