import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from containers.derp import frames, keys, presence
from containers.derp.client import ConnectionClosed, DerpClient
from containers.derp.probe import ProbeTarget
from derpmgmt.sandbox.peer import Peer
from derpmgmt.sandbox.relay import SandboxRelay
from tests.derp.parts import PATIENCE, Certificate, Relay, ScriptedServer


def test_nobody_is_there_when_only_the_panels_own_tests_are(relay: Relay) -> None:
    assert presence.has_devices(relay.target()) is False
    with relay.connect():  # as a test of the panel's introduces itself
        assert presence.has_devices(relay.target()) is False


def test_a_device_is_seen_when_it_is_connected(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        presence, "_FLAG_PROBER", 0
    )  # our client says that it is a test: let it pass for a device
    with relay.connect():
        assert presence.has_devices(relay.target()) is True
    assert presence.has_devices(relay.target()) is False


@pytest.mark.parametrize("change", [{"mesh_key": "ab" * 32}, {"cert_sha256": "00" * 32}, {"derp_port": 1}])
def test_nothing_is_known_when_the_relay_cannot_be_asked(relay: Relay, change: dict[str, object]) -> None:
    assert presence.has_devices(relay.target(**change), timeout=3) is None


def device(relay: Relay, **options: str) -> DerpClient:
    """A device's connection; our client says that it is a test, as any device may."""
    return relay.connect(**options)


def read(relay: Relay) -> set[str]:
    return {one.node_key for one in presence.read_present(relay.target(), timeout=PATIENCE)}


def close(relay: Relay, is_unwelcome: Callable[[str], bool]) -> int:
    return presence.close_peers(relay.target(), is_unwelcome, timeout=PATIENCE)


def everybody(_key: str) -> bool:
    return True


def is_cut(client: DerpClient) -> bool:
    try:
        client.ping(timeout=PATIENCE)
    except ConnectionClosed:
        return True
    return False


def test_devices_are_named_with_their_addresses_and_the_panels_own_connections_are_not(relay: Relay) -> None:
    assert read(relay) == set()
    with device(relay) as one, device(relay) as other, relay.connect(mesh_key=relay.mesh_key):
        found = presence.read_present(relay.target(), timeout=PATIENCE)
        assert {(one.node_key, one.ip, one.port) for one in found} == {
            (client.public_key, *client._connection.getsockname()[:2]) for client in (one, other)
        }
    assert read(relay) == set()


def test_a_device_is_named_once_when_it_is_connected_twice(relay: Relay) -> None:
    private_key = keys.generate_private_key()
    with device(relay, private_key=private_key) as one, device(relay, private_key=private_key):
        assert [found.node_key for found in presence.read_present(relay.target(), timeout=PATIENCE)] == [
            one.public_key
        ]


def test_others_stay_when_a_device_is_cut(relay: Relay) -> None:
    with device(relay) as one, device(relay) as other:
        assert close(relay, {one.public_key, "ab" * 32}.__contains__) == 1
        assert is_cut(one)
        assert not is_cut(other)
        assert close(relay, one.public_key.__eq__) == 0
        assert read(relay) == {other.public_key}


def test_every_connection_is_closed_when_a_device_has_several(relay: Relay) -> None:
    private_key = keys.generate_private_key()
    with device(relay, private_key=private_key) as one, device(relay, private_key=private_key) as two:
        assert close(relay, one.public_key.__eq__) == 1
        assert is_cut(one)
        assert is_cut(two)


def test_only_the_panel_and_the_spared_stay_when_all_are_cut(relay: Relay) -> None:
    with (
        device(relay) as one,
        device(relay) as other,
        device(relay) as spared,
        relay.connect(mesh_key=relay.mesh_key) as ours,
    ):
        assert close(relay, spared.public_key.__ne__) == 2
        assert [is_cut(client) for client in (one, other, spared, ours)] == [True, True, False, False]
        assert close(relay, everybody) == 1


def test_two_who_cut_at_once_do_not_disturb_each_other(relay: Relay) -> None:
    with device(relay) as one, device(relay) as other, ThreadPoolExecutor(2) as pool:
        cuts = [pool.submit(close, relay, one.public_key.__eq__) for _ in range(2)]
        assert 1 <= sum(cut.result() for cut in cuts) <= 2
        assert is_cut(one)
        assert not is_cut(other)


@pytest.mark.parametrize("change", [{"mesh_key": "ab" * 32}, {"cert_sha256": "00" * 32}, {"derp_port": 1}])
def test_it_is_said_when_a_relay_cannot_be_asked(relay: Relay, change: dict[str, object]) -> None:
    with device(relay) as one:
        with pytest.raises(presence.CannotAsk):
            presence.read_present(relay.target(**change), timeout=3)
        with pytest.raises(presence.CannotAsk):
            presence.close_peers(relay.target(**change), everybody, timeout=3)
        assert not is_cut(one)


def test_the_time_limit_holds_when_a_relay_hangs(
    start_scripted: Callable[..., ScriptedServer], certificate: Certificate
) -> None:
    server = start_scripted(lambda connection: connection.recv(1) and time.sleep(3), certificate)
    target = ProbeTarget("127.0.0.1", server.port, 1, certificate.sha256, "00" * 32, "ab" * 32)
    started = time.monotonic()
    for ask in (presence.read_present, partial(presence.close_peers, is_unwelcome=everybody)):
        with pytest.raises(presence.CannotAsk):
            ask(target, timeout=0.4)
    assert time.monotonic() - started < 2.5


class Tacit(SandboxRelay):
    """It names nobody."""

    def _watch(self, watcher: Peer) -> None:
        pass


class Tardy(SandboxRelay):
    """It names whoever asks at the very end of the time that there is, and all others later."""

    def _watch(self, watcher: Peer) -> None:
        asyncio.get_running_loop().call_later(
            1.9, watcher.queue_news, frames.encode_present(self._peers[watcher.key][-1].present)
        )


def test_nobody_is_believed_to_be_away_when_the_relay_names_nobody(
    start_sandbox_relay: Callable[..., Relay],
) -> None:
    relay = start_sandbox_relay(relay_class=Tacit)
    with pytest.raises(presence.CannotAsk):
        presence.read_present(relay.target(), timeout=1)


@pytest.mark.parametrize("relay_class", [Tacit, Tardy])
def test_it_is_not_known_whether_devices_are_there_when_the_relay_does_not_name_all(
    start_sandbox_relay: Callable[..., Relay], relay_class: type[SandboxRelay]
) -> None:
    relay = start_sandbox_relay(relay_class=relay_class)
    with device(relay):
        assert presence.has_devices(relay.target(), timeout=2) is None
