import secrets
import socket
from collections.abc import Iterator

import pytest

from containers.derp import frames, keys
from containers.derp.client import ConnectionClosed, DerpClient, PinMismatch, ServerKeyMismatch
from containers.derp.frames import FrameType, GoneReason, Packet, PeerGone, PeerPresent
from tests.derp.parts import PATIENCE, Relay

STRANGER = keys.public_key_of(keys.generate_private_key())
# How messages that look for a path between peers begin; relays answer only these when the peer is not there.
DISCO = b"TS\xf0\x9f\x92\xac"


@pytest.fixture
def alice(relay: Relay) -> Iterator[DerpClient]:
    with relay.connect() as client:
        yield client


@pytest.fixture
def bob(relay: Relay) -> Iterator[DerpClient]:
    with relay.connect() as client:
        yield client


@pytest.fixture
def watcher(relay: Relay) -> Iterator[DerpClient]:
    with relay.connect(mesh_key=relay.mesh_key) as client:
        yield client


def test_connection_works_when_the_relay_key_is_unknown_before(relay: Relay) -> None:
    with relay.connect(server_key="") as client:
        assert client.server_key == relay.public_key


@pytest.mark.parametrize("size", [0, 1, 1200, frames.MAX_PACKET_BYTES])
def test_packet_arrives_unchanged_when_sent_to_a_peer(size: int, alice: DerpClient, bob: DerpClient) -> None:
    for sender, receiver in ((alice, bob), (bob, alice)):
        packet = secrets.token_bytes(size)
        sender.send_packet(receiver.public_key, packet, timeout=PATIENCE)
        assert receiver.receive_packet(timeout=PATIENCE) == Packet(sender.public_key, packet)


def test_packets_arrive_in_order_when_sent_in_a_burst(alice: DerpClient, bob: DerpClient) -> None:
    packets = [bytes([number]) * 1000 for number in range(20)]
    for packet in packets:
        alice.send_packet(bob.public_key, packet, timeout=PATIENCE)
    assert [bob.receive_packet(timeout=PATIENCE).data for _ in packets] == packets


def test_packet_is_not_sent_when_it_is_too_large(alice: DerpClient, bob: DerpClient) -> None:
    with pytest.raises(ValueError, match="65536"):
        alice.send_packet(bob.public_key, bytes(frames.MAX_PACKET_BYTES + 1), timeout=PATIENCE)
    assert alice.ping(timeout=PATIENCE) > 0


def test_nothing_comes_back_when_the_peer_of_a_packet_is_not_there(alice: DerpClient) -> None:
    alice.send_packet(STRANGER, secrets.token_bytes(1200), timeout=PATIENCE)
    alice.send_packet(STRANGER, DISCO + bytes(100), timeout=PATIENCE)
    # Only the second one is answered.
    assert alice.receive(timeout=PATIENCE) == PeerGone(STRANGER, GoneReason.NOT_HERE)
    with pytest.raises(TimeoutError):
        alice.receive(timeout=0.2)


def test_receiver_is_told_when_a_sender_leaves(relay: Relay, bob: DerpClient) -> None:
    with relay.connect() as sender, relay.connect() as silent:
        sender.send_packet(bob.public_key, b"hello", timeout=PATIENCE)
        assert bob.receive_packet(timeout=PATIENCE).source == sender.public_key
        silent.close()
    assert bob.receive(timeout=PATIENCE) == PeerGone(sender.public_key, GoneReason.DISCONNECTED)


def test_ping_is_answered_when_packets_come_between(alice: DerpClient, bob: DerpClient) -> None:
    bob.send_packet(alice.public_key, b"in between", timeout=PATIENCE)
    assert alice.ping(timeout=PATIENCE) > 0


def test_waiting_ends_and_the_client_stays_usable_when_nothing_comes(
    alice: DerpClient, bob: DerpClient
) -> None:
    with pytest.raises(TimeoutError):
        alice.receive(timeout=0.1)
    bob.send_packet(alice.public_key, b"late", timeout=PATIENCE)
    assert alice.receive_packet(timeout=PATIENCE).data == b"late"


def test_newer_connection_gets_the_packets_when_a_key_is_connected_twice(
    relay: Relay, alice: DerpClient
) -> None:
    private_key = keys.generate_private_key()
    with relay.connect(private_key=private_key) as old, relay.connect(private_key=private_key) as new:
        alice.send_packet(new.public_key, b"to the newer one", timeout=PATIENCE)
        assert new.receive_packet(timeout=PATIENCE).data == b"to the newer one"
        old.send_packet(alice.public_key, b"the older one speaks", timeout=PATIENCE)
        alice.receive_packet(timeout=PATIENCE)
        alice.send_packet(old.public_key, b"to the one that spoke", timeout=PATIENCE)
        assert old.receive_packet(timeout=PATIENCE).data == b"to the one that spoke"


def test_connection_is_refused_when_the_pin_is_another(relay: Relay) -> None:
    with pytest.raises(PinMismatch) as caught:
        relay.connect(cert_sha256="ab" * 32)
    assert caught.value.found == relay.cert_sha256


def test_connection_is_refused_when_the_server_key_is_another(relay: Relay) -> None:
    with pytest.raises(ServerKeyMismatch) as caught:
        relay.connect(server_key=STRANGER)
    assert caught.value.found == relay.public_key


def test_watcher_sees_present_coming_and_going_when_it_has_the_mesh_key(
    relay: Relay, alice: DerpClient, watcher: DerpClient
) -> None:
    events = watcher.watch_connections(timeout=PATIENCE)
    first = {next(events), next(events)}
    assert {event.key for event in first} == {alice.public_key, watcher.public_key}
    assert all(
        isinstance(event, PeerPresent) and event.address == "127.0.0.1" and event.port for event in first
    )
    flags = {event.key: event.flags for event in first if isinstance(event, PeerPresent)}
    assert flags == {alice.public_key: 4, watcher.public_key: 6}
    with relay.connect() as visitor:
        came = next(events)
        assert isinstance(came, PeerPresent)
        assert came.key == visitor.public_key
    assert next(events) == PeerGone(visitor.public_key, GoneReason.DISCONNECTED)


def test_watching_ends_and_goes_on_when_its_time_is_over(relay: Relay, watcher: DerpClient) -> None:
    assert [event.key for event in watcher.watch_connections(timeout=0.3)] == [watcher.public_key]
    assert list(watcher.watch_connections(timeout=0.1)) == []
    with relay.connect() as visitor:
        assert next(watcher.watch_connections(timeout=PATIENCE)).key == visitor.public_key


@pytest.mark.parametrize("mesh_key", ["", "ab" * 32])
def test_watching_is_refused_when_the_mesh_key_is_not_the_relays(mesh_key: str, relay: Relay) -> None:
    with relay.connect(mesh_key=mesh_key) as client, pytest.raises(ConnectionClosed):
        list(client.watch_connections(timeout=PATIENCE))


def test_peer_is_cut_off_when_the_mesh_key_holder_closes_it(
    alice: DerpClient, bob: DerpClient, watcher: DerpClient
) -> None:
    watcher.close_peer(alice.public_key, timeout=PATIENCE)
    with pytest.raises(ConnectionClosed):
        alice.receive(timeout=PATIENCE)
    assert bob.ping(timeout=PATIENCE) > 0


def test_every_connection_is_cut_off_when_the_closed_key_is_connected_twice(
    relay: Relay, watcher: DerpClient
) -> None:
    private_key = keys.generate_private_key()
    with relay.connect(private_key=private_key) as first, relay.connect(private_key=private_key) as second:
        watcher.close_peer(first.public_key, timeout=PATIENCE)
        for client in (first, second):
            with pytest.raises(ConnectionClosed):
                client.receive(timeout=PATIENCE)


def test_closing_a_peer_is_refused_when_there_is_no_mesh_key(alice: DerpClient, bob: DerpClient) -> None:
    alice.close_peer(bob.public_key, timeout=PATIENCE)
    with pytest.raises(ConnectionClosed):
        alice.receive(timeout=PATIENCE)
    assert bob.ping(timeout=PATIENCE) > 0


def test_frames_start_at_once_when_fast_start_is_asked_for(relay: Relay) -> None:
    with relay.open_tls() as connection:
        connection.sendall(
            b"GET /derp HTTP/1.1\r\nHost: relay\r\nConnection: Upgrade\r\nUpgrade: DERP\r\nDerp-Fast-Start: 1\r\n\r\n"
        )
        expected = frames.encode(FrameType.SERVER_KEY, frames.MAGIC, bytes.fromhex(relay.public_key))
        received = b""
        while len(received) < len(expected):
            received += connection.recv(100)
        assert received == expected


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("GET", "/derp/probe", 200),
        ("HEAD", "/derp/latency-check", 200),
        ("POST", "/derp/probe", 405),
        ("GET", "/generate_204", 204),
        ("GET", "/derp", 426),
    ],
)
def test_page_answers_as_derper_does_when_asked(method: str, path: str, status: int, relay: Relay) -> None:
    answered, body, headers = relay.request(method, path)
    assert answered == status
    if path == "/":
        assert body == b""
    if path.startswith("/derp/") and status == 200:
        assert headers["Access-Control-Allow-Origin"] == "*"


@pytest.mark.parametrize(
    ("challenge", "response"), [("ts_abc.1:2", "response ts_abc.1:2"), ("<b>", None), ("a" * 65, None)]
)
def test_challenge_is_answered_when_it_is_harmless(
    challenge: str, response: str | None, relay: Relay
) -> None:
    _, _, headers = relay.request("GET", "/generate_204", {"X-Tailscale-Challenge": challenge})
    assert headers["X-Tailscale-Response"] == response


@pytest.mark.parametrize(
    "noise",
    [
        b"\x00" * 400,
        b"GET / SPDY/9\r\n\r\n",
        b"GET /derp HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: DERP\r\n\r\n" + b"\xff" * 200,
        b"GET /derp HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: DERP\r\n\r\n"
        + frames.encode(FrameType.CLIENT_INFO, bytes(32), bytes(100)),
        b"A" * 2_000_000,
    ],
    ids=["zeros", "other protocol", "huge frame", "bad introduction", "endless header"],
)
def test_relay_serves_on_when_a_client_sends_noise(noise: bytes, relay: Relay, alice: DerpClient) -> None:
    with relay.open_tls() as connection:
        try:
            connection.sendall(noise)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(4096):
                pass
        except OSError:
            pass
    with relay.connect() as bob:
        alice.send_packet(bob.public_key, b"still here", timeout=PATIENCE)
        assert bob.receive_packet(timeout=PATIENCE).data == b"still here"
