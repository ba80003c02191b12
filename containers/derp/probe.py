"""The proof that a relay works: a packet carried through it and compared, and STUN's answer compared, with times.

The probe connects as two throw-away clients, so it needs nothing from a customer's devices. With the relay's mesh key,
admission is not asked about them.
"""

import errno
import ipaddress
import secrets
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from containers.derp import source, stun
from containers.derp.client import (
    ConnectionClosed,
    DerpClient,
    NotAdmitted,
    PinMismatch,
    ServerKeyMismatch,
    TlsFailed,
    check_pin,
    open_tcp,
    start_tls,
)
from containers.derp.frames import ProtocolError

# Shaped like a full WireGuard packet, so that a path with a broken MTU shows.
PACKET_BYTES = 1200

# Round trips on the connection whose times are compared.
PINGS = 5

# The share of the time limit that stays for STUN: a slow connection must not be reported as a closed UDP port.
_STUN_SHARE = 0.3
_MAX_DETAIL_CHARACTERS = 300
_WITNESS_SECONDS = 0.7
# Engines that do it well have a kept port answered within two seconds.
_KEPT_SECONDS = 3.0

CAUSES: dict[str, Promise] = {
    "connect_refused": _(
        "The relay's TCP port refuses connections: its container is not running, or the security group rejects the port."
    ),
    "connect_timed_out": _(
        "The relay's TCP port does not answer: a firewall or security group drops the connection, or the server is down."
    ),
    "connect_unreachable": _("There is no network route to the server."),
    "tls_timed_out": _("The relay's TCP port accepts connections, but nothing answers there: the relay hangs."),
    "tls_closed": _("The relay's TCP port closes every connection before encryption starts: no relay runs behind it."),
    "tls_failed": _("Another program than a relay listens on the relay's TCP port, or something tampers with the connection."),
    "pin_mismatch": _("The relay's port serves another certificate than ours: another relay or an outdated one runs there."),
    "certificate_address": _("The relay's certificate names another address than the relay has, so clients refuse it: it gets a new one by itself."),
    "certificate_over": _("The relay's certificate has ended, so clients refuse it: it gets a new one by itself."),
    "certificate_early": _("The relay's certificate is not valid yet, so clients refuse it: the panel's clock was ahead, or is behind now."),
    "handshake_timed_out": _("The relay accepted the connection but did not finish the handshake in time: it hangs or is overloaded."),
    "handshake_closed": _("The relay closed the connection during the handshake: it is stopping, or limits new connections."),
    "handshake_protocol": _("What answers on the relay's port does not speak DERP."),
    "server_key_mismatch": _("The relay runs with another key than ours: its configuration is not the one we gave it."),
    "not_admitted": _("The relay refused the test connection: admission said no, or the panel and the relay's mesh key differ."),
    "packet_timed_out": _("The relay did not deliver the test packet in time: it is overloaded, limited, or the network loses packets."),
    "packet_closed": _("The relay closed the connection while the test packet was on its way: it stopped or restarted."),
    "packet_protocol": _("The relay answered the test packet with something that is not DERP."),
    "packet_differs": _("The test packet arrived changed: something between here and the relay damages data."),
    "stun_silent": _("The relay's UDP port does not answer: it is closed in the security group, or its mapping is missing."),
    "stun_refused": _("The relay's UDP port is not in use on the server: the container's UDP port mapping is missing."),
    "stun_stale": _(
        "Devices that used the relay before it was remade get no STUN answer while they go on sending from the same port: the host's "
        "connection tracking leads their packets to where nobody is. It is made anew by itself."
    ),
    "stun_unreachable": _("There is no network route to the relay's UDP port."),
    "stun_protocol": _("What answers on the relay's UDP port does not speak STUN: another program uses the port."),
    "mapped_differs": _(
        "STUN tells devices another address than theirs, so they hardly find a direct path: the relay's host rewrites the sender of "
        "UDP packets. What comes in there has a wrong address in the admission log and in limits too."
    ),
    "mapped_private": _(
        "STUN tells devices a private address instead of their own, so they hardly find a direct path: the relay's host rewrites the "
        "sender of UDP packets. What comes in there has a wrong address in the admission log and in limits too."
    ),
}  # fmt: skip

_REWRITTEN = _(
    "Published UDP ports are rewritten on that host: Docker runs rootless there, or without iptables, or leads packets through "
    "a proxy program. Use the system's own Docker Engine with iptables switched on."
)
# What an operator can do about a cause, where there is more to say than the cause itself.
REMEDIES: dict[str, Promise] = {"mapped_differs": _REWRITTEN, "mapped_private": _REWRITTEN}


@dataclass(frozen=True)
class ProbeTarget:
    """Where a relay is and what is known of it.

    `host` is an IP address; `cert_sha256` (of the certificate's DER bytes) and `public_key` are hexadecimal; `mesh_key` ""
    means that admission is asked like for any stranger. `expect_source` is the address that STUN must see us come from,
    `also_seen` are further ones that are ours, `witnesses` STUN services (address, port) that are asked in doubt; with None
    only a private address at a public relay is wrong (`containers.derp.source`). Without `judges_source` it is only recorded.
    """

    host: str
    derp_port: int
    stun_port: int
    cert_sha256: str
    public_key: str
    mesh_key: str = field(default="", repr=False)
    expect_source: str | None = None
    also_seen: tuple[str, ...] = ()
    witnesses: tuple[tuple[str, int], ...] = ()
    judges_source: bool = True


@dataclass(frozen=True)
class ProbeResult:
    """What a probe found. Times are milliseconds, None when it did not get that far.

    On failure `step` is where it stopped (connect, tls, pin, handshake, packet, stun, mapped), `cause` a key of CAUSES and
    `detail` what was seen, in English. How much the times of a connection's round trips, and of STUN's, differ from one to the next
    (`containers.derp.stun.jitter_of`), and the share of STUN's packets that were lost, is None where it was not measured. `mapped_address` is the address, without port, that STUN saw us come from.
    """

    ok: bool
    step: str = ""
    cause: str = ""
    detail: str = ""
    tcp_ms: float | None = None
    tls_ms: float | None = None
    handshake_ms: float | None = None
    packet_ms: float | None = None
    stun_ms: float | None = None
    mapped_address: str = ""
    tcp_jitter_ms: float | None = None
    stun_jitter_ms: float | None = None
    stun_loss: float | None = None


def probe_relay(
    target: ProbeTarget,
    *,
    timeout: float = 5.0,
    on_step: Callable[[str], None] | None = None,
    kept: stun.KeptPort | None = None,
    measures_quality: bool = False,
) -> ProbeResult:
    """Prove a relay end to end within `timeout` seconds, whatever the far side does.

    With `measures_quality` it also finds, within a second or two more, how much times vary and what gets lost; whatever that finds
    is no fault of the relay's.

    `kept` is a port that asked the relay's STUN all the while it was remade: it must be answered too, within three more seconds.

    `on_step` is called with each step's name as it begins. A relay's faults are in the result; raises ValueError only when
    `target.host` is not an IP address.
    """
    ipaddress.ip_address(target.host)
    run = _Run(
        target, time.monotonic() + timeout, timeout * _STUN_SHARE, on_step, PINGS if measures_quality else 0
    )
    try:
        run.carry_packet()
        run.ask_stun()
        if kept is not None:
            run.ask_kept(kept)
        if measures_quality:
            run.measure_stun()
    except _Failure as failure:
        return replace(run.result, cause=failure.cause, detail=failure.detail[:_MAX_DETAIL_CHARACTERS])
    return replace(run.result, ok=True, step="")


def explain(result: ProbeResult) -> str:
    """Return the likely cause of a failed probe as a sentence in the current language; "" when it succeeded."""
    return str(CAUSES[result.cause]) if result.cause else ""


class _Failure(Exception):
    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(cause)
        self.cause = cause
        self.detail = detail


class _Run:
    """One probe and what it found so far."""

    def __init__(
        self,
        target: ProbeTarget,
        deadline: float,
        stun_seconds: float,
        on_step: Callable[[str], None] | None,
        pings: int,
    ) -> None:
        self.target = target
        self.deadline = deadline
        self.derp_deadline = deadline - stun_seconds
        self.on_step = on_step
        self.pings = pings
        self.result = ProbeResult(ok=False)

    def carry_packet(self) -> None:
        """Connect two clients and carry one random packet from the first to the second."""
        with self._connect(is_first=True) as sender, self._connect(is_first=False) as receiver:
            self._enter("packet")
            packet = secrets.token_bytes(PACKET_BYTES)
            started = time.perf_counter()
            try:
                sender.send_packet(receiver.public_key, packet, timeout=self._left())
                arrived = receiver.receive_packet(timeout=self._left())
            except TimeoutError as error:
                raise _Failure("packet_timed_out", str(error)) from error
            except ConnectionClosed as error:
                raise _Failure("packet_closed", str(error)) from error
            except ProtocolError as error:
                raise _Failure("packet_protocol", str(error)) from error
            self._measure("packet_ms", started)
            if arrived.source != sender.public_key:
                raise _Failure("packet_differs", "a packet of another sender arrived")
            if arrived.data != packet:
                raise _Failure(
                    "packet_differs", f"sent {len(packet)} bytes, {len(arrived.data)} other bytes arrived"
                )

            self._ping(sender)

    def _ping(self, client: DerpClient) -> None:
        """Measure round trips on a connection that works. What goes wrong with it from here on is no fault that this test looks for."""
        with suppress(OSError, ProtocolError, ConnectionClosed):
            times = [client.ping(timeout=self._left()) for _time in range(self.pings)]
            self.result = replace(self.result, tcp_jitter_ms=stun.jitter_of(times))

    def measure_stun(self) -> None:
        """Measure STUN's answers, after one has come."""
        with suppress(OSError):
            found = stun.measure(self.target.host, self.target.stun_port)
            self.result = replace(self.result, stun_jitter_ms=found.jitter_ms, stun_loss=found.loss)

    def ask_stun(self) -> None:
        """Ask STUN for our address and compare it with the expected one."""
        self._enter("stun")
        try:
            answer = stun.query(
                self.target.host, self.target.stun_port, timeout=self.deadline - time.monotonic()
            )
        except TimeoutError as error:
            raise _Failure("stun_silent", str(error)) from error
        except ConnectionRefusedError as error:
            raise _Failure("stun_refused", str(error)) from error
        except ProtocolError as error:
            raise _Failure("stun_protocol", str(error)) from error
        except OSError as error:
            raise _Failure("stun_unreachable", str(error)) from error
        self.result = replace(self.result, stun_ms=answer.milliseconds, mapped_address=answer.address)
        if not self.target.judges_source:
            return
        self._enter("mapped")
        cause = source.find_fault(
            mapped=answer.address,
            host=self.target.host,
            expected=self.target.expect_source,
            own=answer.asked_from,
            also=self.target.also_seen,
            ask_others=self._ask_others,
        )
        if cause:
            raise _Failure(cause, f"{answer.address} instead of {self.target.expect_source or 'ours'}")

    def ask_kept(self, kept: stun.KeptPort) -> None:
        """Ask STUN from the port of somebody who never stopped sending; others have been answered."""
        self._enter("stun")
        try:
            kept.query(timeout=_KEPT_SECONDS)
        except (OSError, ProtocolError) as error:
            raise _Failure("stun_stale", str(error)) from error

    def _ask_others(self) -> list[str]:
        """The public addresses that other relays see us come from now."""
        told = []
        for host, port in self.target.witnesses:
            left = self.deadline - time.monotonic()
            if left <= 0:
                break
            with suppress(OSError, ProtocolError):
                told.append(stun.query(host, port, timeout=min(left, _WITNESS_SECONDS)).address)
        return [address for address in told if source.is_public(address)]

    def _connect(self, *, is_first: bool) -> DerpClient:
        """Connect one client; only the first one's steps are announced and timed."""
        connection = self._open(is_first=is_first)
        try:
            self._enter("pin", announce=is_first)
            try:
                check_pin(connection, self.target.cert_sha256)
            except PinMismatch as error:
                raise _Failure("pin_mismatch", str(error)) from error
            self._check_certificate(connection)
            self._enter("handshake", announce=is_first)
            started = time.perf_counter()
            client = DerpClient(connection, mesh_key=self.target.mesh_key)
            self._introduce(client)
            if is_first:
                self._measure("handshake_ms", started)
        except BaseException:
            connection.close()
            raise
        return client

    def _check_certificate(self, connection: ssl.SSLSocket) -> None:
        """Check what clients check beside the pin: the address that they use, and the dates (Tailscale's net/tlsdial)."""
        from cryptography import x509  # here: most who import this module only read results

        served = x509.load_der_x509_certificate(connection.getpeercert(binary_form=True) or b"")
        named = [
            str(address)
            for extension in served.extensions
            if isinstance(extension.value, x509.SubjectAlternativeName)
            for address in extension.value.get_values_for_type(x509.IPAddress)
        ]
        if self.target.host not in named:
            raise _Failure("certificate_address", f"{', '.join(named)} instead of {self.target.host}")
        now = datetime.now(UTC)
        if now > served.not_valid_after_utc:
            raise _Failure("certificate_over", f"it ended at {served.not_valid_after_utc}")
        if now < served.not_valid_before_utc:
            raise _Failure("certificate_early", f"it begins at {served.not_valid_before_utc}")

    def _open(self, *, is_first: bool) -> ssl.SSLSocket:
        self._enter("connect", announce=is_first)
        started = time.perf_counter()
        try:
            connection = open_tcp(self.target.host, self.target.derp_port, timeout=self._left())
        except TimeoutError as error:
            raise _Failure("connect_timed_out", str(error)) from error
        except OSError as error:
            refused = error.errno in (errno.ECONNREFUSED, errno.ECONNRESET)
            raise _Failure("connect_refused" if refused else "connect_unreachable", str(error)) from error
        if is_first:
            self._measure("tcp_ms", started)
        self._enter("tls", announce=is_first)
        started = time.perf_counter()
        try:
            encrypted = start_tls(connection, timeout=self._left())
        except TimeoutError as error:
            raise _Failure("tls_timed_out", str(error)) from error
        except ConnectionClosed as error:
            raise _Failure("tls_closed", str(error)) from error
        except TlsFailed as error:
            raise _Failure("tls_failed", str(error)) from error
        if is_first:
            self._measure("tls_ms", started)
        return encrypted

    def _introduce(self, client: DerpClient) -> None:
        authority = f"{self.target.host}:{self.target.derp_port}"
        try:
            client.handshake(authority, server_key=self.target.public_key, timeout=self._left())
        except TimeoutError as error:
            raise _Failure("handshake_timed_out", str(error)) from error
        except ServerKeyMismatch as error:
            raise _Failure("server_key_mismatch", str(error)) from error
        except NotAdmitted as error:
            raise _Failure("not_admitted", str(error)) from error
        except ConnectionClosed as error:
            raise _Failure("handshake_closed", str(error)) from error
        except ProtocolError as error:
            raise _Failure("handshake_protocol", str(error)) from error

    def _enter(self, step: str, *, announce: bool = True) -> None:
        self.result = replace(self.result, step=step)
        if announce and self.on_step is not None:
            self.on_step(step)

    def _measure(self, name: str, started: float) -> None:
        measured: dict[str, Any] = {name: (time.perf_counter() - started) * 1000}
        self.result = replace(self.result, **measured)

    def _left(self) -> float:
        """Return the seconds left for DERP; never 0, which would mean "do not wait" to a socket instead of a time-out."""
        return max(self.derp_deadline - time.monotonic(), 0.001)
