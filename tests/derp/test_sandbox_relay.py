import json
import socket
import time
from collections.abc import Callable

import pytest

from containers.derp import frames, stun
from containers.derp.client import ConnectionClosed, DerpClient
from containers.derp.frames import FrameType
from containers.derp.probe import probe_relay
from derpmgmt.sandbox import peer as sandbox_peer
from tests.derp.parts import PATIENCE, LoopThread, Relay, start_sandbox


@pytest.mark.parametrize("kind", ["derp", "stun"])
def test_start_fails_and_holds_nothing_when_a_port_is_taken(
    kind: str, start_sandbox_relay: Callable[..., Relay], loop_thread: LoopThread
) -> None:
    taken = start_sandbox_relay()
    with socket.create_server(("127.0.0.1", 0)) as free:
        free_tcp = free.getsockname()[1]
    ports = (taken.derp_port, 0) if kind == "derp" else (free_tcp, taken.stun_port)
    with pytest.raises(OSError, match="in use"):
        start_sandbox(loop_thread, ports=ports)
    if kind == "stun":
        socket.create_server(("127.0.0.1", free_tcp)).close()
    assert probe_relay(taken.target(), timeout=PATIENCE).ok


def test_stop_closes_clients_and_ports_when_clients_are_connected(
    start_sandbox_relay: Callable[..., Relay], loop_thread: LoopThread
) -> None:
    relay = start_sandbox_relay()
    with relay.connect() as client, socket.create_connection(("127.0.0.1", relay.derp_port)) as half_open:
        relay.stop()
        with pytest.raises(ConnectionClosed):
            client.receive(timeout=PATIENCE)
        assert half_open.fileno() > 0
        again = start_sandbox(loop_thread, ports=(relay.derp_port, relay.stun_port))
        try:
            assert probe_relay(again.target(), timeout=PATIENCE).ok
        finally:
            again.stop()


def test_counters_add_up_when_packets_were_carried(start_sandbox_relay: Callable[..., Relay]) -> None:
    relay = start_sandbox_relay(debug_key="open sesame")
    with relay.connect() as alice, relay.connect() as bob:
        for _ in range(3):
            alice.send_packet(bob.public_key, bytes(100), timeout=PATIENCE)
            bob.receive_packet(timeout=PATIENCE)
        alice.send_packet("ab" * 32, bytes(100), timeout=PATIENCE)
        alice._send(frames.encode(FrameType.NOTE_PREFERRED, b"\x01"), time.monotonic() + PATIENCE)
        alice.ping(timeout=PATIENCE)
        status, body, _ = relay.request("GET", "/debug/vars?debugkey=open%20sesame")
    assert status == 200
    counted = json.loads(body)["derp"]
    assert counted.pop("version").startswith("1.")
    assert counted == {
        "accepts": 2,
        "bytes_received": 400,
        "bytes_sent": 300,
        "packets_received": 4,
        "packets_sent": 3,
        "gauge_current_connections": 2,
        "gauge_current_home_connections": 1,
    }


@pytest.mark.parametrize(("debug_key", "offered"), [("", ""), ("right", "wrong"), ("right", "")])
def test_counters_are_refused_when_the_debug_key_is_not_right(
    debug_key: str, offered: str, start_sandbox_relay: Callable[..., Relay]
) -> None:
    relay = start_sandbox_relay(debug_key=debug_key)
    assert relay.request("GET", f"/debug/vars?debugkey={offered}")[0] == 403


def test_keep_alive_is_sent_when_nothing_happens(
    start_sandbox_relay: Callable[..., Relay], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox_peer, "_KEEP_ALIVE_SECONDS", 0.1)
    with start_sandbox_relay().connect() as client:
        for _ in range(2):
            assert client._read_frame(time.monotonic() + PATIENCE) == (FrameType.KEEP_ALIVE, b"")


def test_slow_reader_is_dropped_and_others_are_served_when_it_does_not_read(
    start_sandbox_relay: Callable[..., Relay], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox_peer, "_WRITE_SECONDS", 0.2)
    relay = start_sandbox_relay()
    assert relay.sandbox is not None
    packet = bytes(frames.MAX_PACKET_BYTES)
    with relay.connect() as slow, relay.connect() as sender, relay.connect() as other:
        deadline = time.monotonic() + PATIENCE
        while relay.sandbox.current_connections == 3 and time.monotonic() < deadline:
            sender.send_packet(slow.public_key, packet, timeout=PATIENCE)
        assert relay.sandbox.current_connections == 2
        sender.send_packet(other.public_key, b"still served", timeout=PATIENCE)
        assert other.receive_packet(timeout=PATIENCE).data == b"still served"


def ping_for_ever(client: DerpClient) -> None:
    pings = frames.encode(FrameType.PING, bytes(8)) * 1000
    deadline = time.monotonic() + PATIENCE
    while True:
        client._send(pings, deadline)


def test_peer_is_dropped_when_it_asks_without_reading_answers(
    start_sandbox_relay: Callable[..., Relay], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox_peer, "_QUEUED_NEWS", 50)
    # Or it would be dropped for reading too slowly.
    monkeypatch.setattr(sandbox_peer, "_WRITE_SECONDS", 1000.0)
    relay = start_sandbox_relay()
    with relay.connect() as client, pytest.raises(ConnectionClosed):
        ping_for_ever(client)


def test_burst_is_carried_whole_when_the_receiver_reads(start_sandbox_relay: Callable[..., Relay]) -> None:
    relay = start_sandbox_relay()
    with relay.connect() as sender, relay.connect() as receiver:
        packets = [number.to_bytes(2, "big") * 20 for number in range(300)]
        burst = b"".join(
            frames.encode(FrameType.SEND_PACKET, bytes.fromhex(receiver.public_key), packet)
            for packet in packets
        )
        sender._send(burst, time.monotonic() + PATIENCE)
        assert [receiver.receive_packet(timeout=PATIENCE).data for _ in packets] == packets


def test_address_is_the_senders_when_stun_answers(start_sandbox_relay: Callable[..., Relay]) -> None:
    relay = start_sandbox_relay()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.bind(("127.0.0.1", 0))
        client.settimeout(PATIENCE)
        transaction = bytes(range(12))
        client.sendto(stun.encode_request(transaction), ("127.0.0.1", relay.stun_port))
        assert stun.decode_answer(client.recv(2048), transaction) == client.getsockname()
