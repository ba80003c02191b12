import os
import secrets
import signal
import socket
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.utils import translation

from containers.derp import keys, stun
from containers.derp.probe import CAUSES, ProbeResult, ProbeTarget, explain, probe_relay
from containers.derp.stun import KeptPort
from derpmgmt.sandbox.relay import SandboxRelay
from tests.derp.parts import (
    PATIENCE,
    AdmissionServer,
    Certificate,
    Relay,
    make_certificate,
    say_noise,
    say_nothing,
    udp_server,
)


def closed_port(kind: socket.SocketKind) -> int:
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def failure(result: ProbeResult) -> tuple[bool, str, str]:
    return result.ok, result.step, result.cause


def test_probe_succeeds_with_all_times_when_the_relay_works(relay: Relay) -> None:
    steps: list[str] = []
    result = probe_relay(relay.target(expect_source="127.0.0.1"), timeout=PATIENCE, on_step=steps.append)
    assert result.ok, result
    assert (result.step, result.cause, result.detail, explain(result)) == ("", "", "", "")
    times = (result.tcp_ms, result.tls_ms, result.handshake_ms, result.packet_ms, result.stun_ms)
    assert all(time is not None and time > 0 for time in times)
    assert result.mapped_address == "127.0.0.1"
    assert steps == ["connect", "tls", "pin", "handshake", "packet", "stun", "mapped"]


def test_probe_only_records_the_mapped_address_when_no_source_is_expected(relay: Relay) -> None:
    result = probe_relay(relay.target(), timeout=PATIENCE)
    assert result.ok, result
    assert result.mapped_address == "127.0.0.1"


def test_probe_says_mapped_when_the_relay_sees_another_address(
    start_sandbox_relay: Callable[..., Relay],
) -> None:
    relay = start_sandbox_relay(seen_source="192.0.2.8")
    result = probe_relay(relay.target(expect_source="192.0.2.9"), timeout=PATIENCE)
    assert failure(result) == (False, "mapped", "mapped_differs")
    assert result.mapped_address == "192.0.2.8"
    assert "192.0.2.9" in result.detail


def test_probe_says_tls_when_the_process_is_paused_and_its_kernel_answers_alone(relay: Relay) -> None:
    if relay.pid is None:
        pytest.skip("the sandbox's relays have no processes of their own")
    assert probe_relay(relay.target(), timeout=PATIENCE).ok
    os.kill(relay.pid, signal.SIGSTOP)
    os.waitpid(relay.pid, os.WUNTRACED)  # it has stopped
    result = probe_relay(relay.target(), timeout=1.0)
    assert failure(result) == (False, "tls", "tls_timed_out")
    assert result.tcp_ms is not None
    assert (result.tls_ms, result.packet_ms, result.stun_ms) == (None, None, None)
    os.kill(relay.pid, signal.SIGCONT)
    assert probe_relay(relay.target(), timeout=PATIENCE).ok


def test_probe_says_pin_when_the_certificate_is_another(relay: Relay) -> None:
    result = probe_relay(relay.target(cert_sha256="ab" * 32), timeout=PATIENCE)
    assert failure(result) == (False, "pin", "pin_mismatch")
    assert relay.cert_sha256 in result.detail
    assert result.tls_ms is not None
    assert result.handshake_ms is None


@pytest.mark.parametrize(
    ("made", "cause", "seen"),
    [
        (lambda: make_certificate("127.0.0.2"), "certificate_address", "127.0.0.2"),
        (lambda: make_certificate("127.0.0.1", age=timedelta(days=2)), "certificate_over", "ended"),
        (lambda: make_certificate("127.0.0.1", age=timedelta(hours=-1)), "certificate_early", "begins"),
    ],
)
def test_probe_says_pin_when_clients_refuse_the_certificate_for_its_address_or_its_dates(
    start_sandbox_relay: Callable[..., Relay], made: Callable[[], Certificate], cause: str, seen: str
) -> None:
    relay = start_sandbox_relay(certificate=made())
    result = probe_relay(relay.target(), timeout=PATIENCE)
    assert failure(result) == (False, "pin", cause)
    assert seen in result.detail


def test_probe_says_handshake_when_the_relay_key_is_another(relay: Relay) -> None:
    other = keys.public_key_of(keys.generate_private_key())
    result = probe_relay(relay.target(public_key=other), timeout=PATIENCE)
    assert failure(result) == (False, "handshake", "server_key_mismatch")


def test_probe_is_carried_when_it_has_no_mesh_key_and_everybody_is_admitted(relay: Relay) -> None:
    assert probe_relay(relay.target(mesh_key=""), timeout=PATIENCE).ok


def test_probe_passes_admission_when_it_has_the_mesh_key_only(
    start_relay: Callable[..., Relay], admission: AdmissionServer
) -> None:
    admission.body = b'{"Allow": false}'
    relay = start_relay(verify_url=admission.url)
    assert probe_relay(relay.target(), timeout=PATIENCE).ok
    assert admission.questions == []
    result = probe_relay(relay.target(mesh_key=""), timeout=PATIENCE)
    assert failure(result) == (False, "handshake", "not_admitted")
    assert len(admission.questions) == 1


def test_probe_says_connect_when_the_relay_is_stopped(relay: Relay) -> None:
    relay.stop()
    result = probe_relay(relay.target(), timeout=PATIENCE)
    assert failure(result) == (False, "connect", "connect_refused")


def test_probe_says_connect_when_the_port_drops_connections() -> None:
    # A listener whose queue is full answers no further connection, like a firewall that drops.
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        try:
            result = probe_relay(ProbeTarget("127.0.0.1", port, 1, "ab" * 32, "cd" * 32), timeout=1.0)
        finally:
            for filler in fillers:
                filler.close()
    assert failure(result) == (False, "connect", "connect_timed_out")


def test_probe_refuses_a_name_when_an_address_is_needed(relay: Relay) -> None:
    with pytest.raises(ValueError, match="does not appear to be"):
        probe_relay(relay.target(host="relay.example"), timeout=PATIENCE)


def test_probe_says_stun_when_the_udp_port_is_closed(relay: Relay) -> None:
    port = closed_port(socket.SOCK_DGRAM)
    result = probe_relay(relay.target(stun_port=port), timeout=PATIENCE)
    assert failure(result) == (False, "stun", "stun_refused")
    assert result.packet_ms is not None


def test_probe_says_stun_when_nobody_answers(start_sandbox_relay: Callable[..., Relay]) -> None:
    relay = start_sandbox_relay()
    with udp_server(say_nothing) as (port, seen):
        result = probe_relay(relay.target(stun_port=port), timeout=2.0)
    assert failure(result) == (False, "stun", "stun_silent")
    assert len(seen) == 3


def test_probe_says_stun_when_something_else_answers(start_sandbox_relay: Callable[..., Relay]) -> None:
    relay = start_sandbox_relay()
    with udp_server(say_noise) as (port, _):
        result = probe_relay(relay.target(stun_port=port), timeout=1.0)
    assert failure(result) == (False, "stun", "stun_protocol")


class DamagingRelay(SandboxRelay):
    def deliver(self, source: str, destination: str, packet: bytes) -> None:
        super().deliver(source, destination, packet[:-1] + bytes([packet[-1] ^ 1]))


class ShorteningRelay(SandboxRelay):
    def deliver(self, source: str, destination: str, packet: bytes) -> None:
        super().deliver(source, destination, packet[:-1])


class MisattributingRelay(SandboxRelay):
    def deliver(self, source: str, destination: str, packet: bytes) -> None:
        super().deliver(secrets.token_hex(32), destination, packet)


class LosingRelay(SandboxRelay):
    def deliver(self, source: str, destination: str, packet: bytes) -> None:
        pass


class DyingRelay(SandboxRelay):
    def deliver(self, source: str, destination: str, packet: bytes) -> None:
        for task in self._tasks:
            task.cancel()


@pytest.mark.parametrize(
    ("relay_class", "cause"),
    [
        (DamagingRelay, "packet_differs"),
        (ShorteningRelay, "packet_differs"),
        (MisattributingRelay, "packet_differs"),
        (LosingRelay, "packet_timed_out"),
        (DyingRelay, "packet_closed"),
    ],
)
def test_probe_says_packet_when_the_relay_does_not_carry_it_as_it_was(
    relay_class: type[SandboxRelay], cause: str, start_sandbox_relay: Callable[..., Relay]
) -> None:
    relay = start_sandbox_relay(relay_class=relay_class)
    result = probe_relay(relay.target(), timeout=2.0)
    assert failure(result) == (False, "packet", cause)
    assert result.packet_ms is None or cause == "packet_differs"


@pytest.mark.parametrize("cause", CAUSES)
def test_cause_is_explained_when_a_probe_failed(cause: str) -> None:
    with translation.override("en"):
        sentence = explain(ProbeResult(ok=False, step="any", cause=cause))
    assert sentence.endswith(".")
    assert len(sentence.split()) > 5


def test_mesh_key_is_hidden_when_a_target_is_printed(relay: Relay) -> None:
    assert relay.mesh_key not in repr(relay.target())


def test_probe_says_that_who_kept_his_port_is_not_answered(relay: Relay) -> None:
    with udp_server(say_nothing) as (port, _seen), KeptPort("127.0.0.1", port) as deaf:
        result = probe_relay(relay.target(), timeout=PATIENCE, kept=deaf)
    assert failure(result) == (False, "stun", "stun_stale")
    assert result.stun_ms is not None
    with KeptPort(relay.address, relay.stun_port) as kept:
        assert probe_relay(relay.target(), timeout=PATIENCE, kept=kept).ok


def test_quality_is_measured_when_that_is_asked_for(relay: Relay) -> None:
    result = probe_relay(relay.target(), timeout=PATIENCE, measures_quality=True)
    assert result.ok, result
    assert result.stun_loss == 0
    assert result.tcp_jitter_ms is not None
    assert result.stun_jitter_ms is not None
    plain = probe_relay(relay.target(), timeout=PATIENCE)
    assert (plain.tcp_jitter_ms, plain.stun_jitter_ms, plain.stun_loss) == (None, None, None)


def test_relay_passes_when_only_later_packets_are_lost(relay: Relay) -> None:
    """What gets lost is measured, and is no reason to say that it does not work."""
    asked = 0

    def first_only(datagram: bytes, client: tuple[str, int]) -> bytes | None:
        nonlocal asked
        asked += 1
        return stun.encode_answer(stun.decode_request(datagram), *client) if asked == 1 else None

    with udp_server(first_only, host=relay.address) as (port, _seen):
        result = probe_relay(relay.target(stun_port=port), timeout=PATIENCE, measures_quality=True)
    assert (result.ok, result.stun_loss, result.stun_jitter_ms) == (True, 1.0, None)
