import pytest

from containers.derp import presence
from tests.derp.parts import Relay


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
