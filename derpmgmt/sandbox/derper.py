"""derper as a container of the sandbox: its command line and files become a relay of this process.

It reads what the real program reads, in the same order, and ends with its words and exit codes where that ends
(cmd/derper/derper.go and cert.go of tailscale.com v1.102.5). One thing it does not do: make up keys and certificates that are
missing, as the real one does where its user may write.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from dataclasses import dataclass, field
from typing import NoReturn

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from containers.derp import keys
from derpmgmt.sandbox.program import Exited, Surroundings
from derpmgmt.sandbox.rates import RateConfig
from derpmgmt.sandbox.relay import SandboxRelay

_BOOLEANS = {"1": True, "t": True, "true": True, "0": False, "f": False, "false": False}
_ENDLESS = 2**63 - 1


@dataclass
class Flags:
    """Its flags with their defaults, as far as they may stand on the command line of a relay."""

    values: dict[str, str | int | bool] = field(
        default_factory=lambda: {
            "a": ":443",
            "http-port": 80,
            "stun": True,
            "stun-port": 3478,
            "derp": True,
            "hostname": "derp.tailscale.com",
            "certmode": "letsencrypt",
            "certdir": "/root/.cache/tailscale/derper-certs",
            "c": "",
            "home": "",
            "mesh-psk-file": "",
            "mesh-with": "",
            "rate-config": "",
            "verify-clients": False,
            "verify-client-url": "",
            "verify-client-url-fail-open": True,
            "accept-connection-limit": "+Inf",
            "accept-connection-burst": _ENDLESS,
            "tcp-keepalive-time": "10m0s",
            "tcp-user-timeout": "15s",
            "tcp-write-timeout": "2s",
            "version": False,
        }
    )

    def text(self, name: str) -> str:
        return str(self.values[name])

    def parse(self, program: str, arguments: list[str]) -> None:
        """Read the command line as Go's package flag does. Raises Exited."""
        rest = list(arguments)
        while rest and len(rest[0]) > 1 and rest[0].startswith("-"):
            argument = rest.pop(0)
            if argument == "--":
                break
            name, equals, value = argument.removeprefix("-").removeprefix("-").partition("=")
            if name not in self.values:
                self._fail(program, f"flag provided but not defined: -{name}")
            kind = type(self.values[name])
            if kind is bool:
                if equals and value.lower() not in _BOOLEANS:
                    self._fail(program, f'invalid boolean value "{value}" for -{name}: parse error')
                self.values[name] = _BOOLEANS[value.lower()] if equals else True
                continue
            if not equals:
                if not rest:
                    self._fail(program, f"flag needs an argument: -{name}")
                value = rest.pop(0)
            if kind is int and not re.fullmatch(r"[+-]?\d+", value):
                self._fail(program, f'invalid value "{value}" for flag -{name}: parse error')
            self.values[name] = int(value) if kind is int else value

    def _fail(self, program: str, words: str) -> NoReturn:
        raise Exited(2, words, f"Usage of {program}:", plain=True)


class Derper:
    """One running derper."""

    ENDS = {"KILL": 137, "TERM": 0, "INT": 0, "HUP": 2, "QUIT": 2}

    def __init__(self, command: list[str], around: Surroundings) -> None:
        self._program, *self._arguments = command
        self._address = around.address
        self._read = around.read
        self._log = around.log
        self._locate = around.locate
        self._resolve = around.resolve
        self._seen_source = around.seen_source
        self._wire = around.wire
        self.relay: SandboxRelay | None = None
        self.reloads_on_hangup = False
        self._rates_path = ""

    async def start(self) -> None:
        """Raises Exited when it ends at once, OSError when the ports on the host are taken."""
        flags = Flags()
        flags.parse(self._program, self._arguments)
        if flags.values["version"]:
            raise Exited(0, "1.102.5-sandbox", plain=True)
        host, colon, port = flags.text("a").rpartition(":")
        if not colon:
            raise Exited(1, f"invalid server address: address {flags.text('a')}: missing port in address")
        if not port.isdecimal():
            raise Exited(1, f"listen tcp: lookup tcp/{port}: unknown port")
        derp_port, stun_port = int(port), int(flags.values["stun-port"])
        private_key = self._read_private_key(flags.text("c"))
        if flags.values["stun"]:
            self._log(f"STUN server listening on [{host or '::'}]:{stun_port}")
        rates = self._start_rates(flags.text("rate-config"))
        mesh_key = self._read_mesh_key(flags.text("mesh-psk-file"))
        if flags.text("certmode") != "manual":
            raise Exited(1, "this is a sandbox: its relays know only -certmode manual")
        self._log(f"derper: serving on {flags.text('a')} with TLS")
        certificate, key = self._read_certificate(flags.text("certdir"), flags.text("hostname"))
        published = (
            self._locate(derp_port, "tcp"),
            self._locate(stun_port, "udp") if flags.values["stun"] else 0,
        )
        # A port that is not published is out of reach from outside; here a port that nobody knows stands for it.
        self.relay = SandboxRelay(
            self._address,
            published[0],
            published[1],
            certificate,
            key,
            private_key,
            mesh_key,
            flags.text("verify-client-url"),
            fail_open=bool(flags.values["verify-client-url-fail-open"]),
            resolve=self._resolve,
            seen_source=self._seen_source,
            wire=self._wire,
        )
        self.relay.limit(rates)
        await self.relay.start()
        self._rates_path = flags.text("rate-config")
        self.reloads_on_hangup = bool(flags.values["rate-config"])

    async def stop(self) -> None:
        if self.relay is not None:
            await self.relay.stop()
            self.relay = None

    def reload(self) -> None:
        """It reads its rates again; those that it cannot read change nothing."""
        self._log(f"derper: received SIGHUP, reloading rate config from {self._rates_path}")
        try:
            self._apply_rates(self._rates_path)
        except ValueError as error:
            self._log(f"derper: rate config reload failed: {error}")
            return
        self._log("derper: rate config reloaded successfully")

    def processes(self) -> dict[int, str]:
        return {os.getpid(): " ".join((self._program, *self._arguments))}

    @property
    def connections(self) -> int:
        return self.relay.open_connections if self.relay else 0

    def place_of(self, port: int) -> tuple[str, int] | None:
        """Relays are for those outside."""
        return None

    def _open(self, path: str) -> bytes:
        """Raises FileNotFoundError as it is, and Exited for everything else."""
        try:
            return self._read(path)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise Exited(1, _go_words("open", path, error)) from None

    def _read_private_key(self, path: str) -> str:
        if not path:
            raise Exited(1, "derper: -c <config path> not specified")
        try:
            text = self._open(path).decode(errors="replace")
        except FileNotFoundError:
            raise Exited(1, f"open {path}.tmp{hash(path) % 10**9}: permission denied") from None
        try:
            value = json.loads(text)
        except ValueError:
            found = text.strip()[:1]
            words = (
                f"invalid character '{found}' looking for beginning of value"
                if found
                else "unexpected end of JSON input"
            )
            raise Exited(1, f"derper: config: {words}") from None
        text = str(value.get("PrivateKey", "")) if isinstance(value, dict) else ""
        if text and not text.startswith("privkey:"):
            raise Exited(1, "derper: config: key hex string doesn't have expected type prefix privkey:")
        digits = text.removeprefix("privkey:")
        if text and len(digits) != 64:
            raise Exited(1, f"derper: config: key hex has the wrong size, got {len(digits)} want 64")
        try:
            private_key = keys.parse_private_key(text)
        except ValueError:
            private_key = "0" * 64
        if not int(private_key, 16):
            raise Exited(2, "panic: can't take the public key of a zero NodePrivate", plain=True)
        return private_key

    def _start_rates(self, path: str) -> RateConfig:
        if not path:
            return RateConfig()
        try:
            return self._apply_rates(path)
        except ValueError as error:
            raise Exited(1, f"derper: loading rate config: {error}") from None

    def _apply_rates(self, path: str) -> RateConfig:
        """Read the rates, and apply them where it runs already. Raises ValueError in its own words."""
        try:
            content = self._read(path)
        except OSError as error:
            raise ValueError(f"error reading rate config: {_go_words('open', path, error)}") from None
        try:
            rates = RateConfig.read(content)
        except ValueError as error:
            raise ValueError(f"error parsing rate config: {error}") from None
        if self.relay is not None:
            self.relay.limit(rates)
        self._log(rates.words)
        return rates

    def _read_mesh_key(self, path: str) -> str:
        if not path:
            self._log("No mesh key configured")
            return ""
        try:
            key = self._read(path).decode(errors="replace").strip()
        except OSError as error:
            words = _go_words("open", path, error)
            raise Exited(1, f"StaticFile failed to get key: reading static secret: {words}") from None
        self._log("Got mesh key from static file")
        if not re.fullmatch(r"[0-9a-f]{64}", key):
            raise Exited(1, "invalid mesh key: invalid mesh key: must be 64-digit hexadecimal number")
        self._log("DERP mesh key configured")
        return key

    def _read_certificate(self, folder: str, hostname: str) -> tuple[bytes, bytes]:
        name = re.sub(r"[^a-zA-Z0-9-.]", "", hostname)
        begin = f'derper: can not start cert provider: can not load x509 key pair for hostname "{name}":'
        pieces = {}
        for kind, words in (("crt", "certificate"), ("key", "key")):
            path = f"{folder.rstrip('/')}/{name}.{kind}"
            try:
                pieces[kind] = self._read(path)
            except FileNotFoundError:
                failed = f"failed to write {words} to {path}: open {path}: permission denied"
                raise Exited(1, f"{begin} {failed}") from None
            except OSError as error:
                raise Exited(1, f"{begin} {_go_words('open', path, error)}") from None
        certificate, key = _parse_certificate(pieces["crt"]), _parse_key(pieces["key"])
        if certificate is None:
            raise Exited(1, f"{begin} tls: failed to find any PEM data in certificate input")
        if key is None:
            raise Exited(1, f"{begin} tls: failed to find any PEM data in key input")
        if key.public_key() != certificate.public_key():
            raise Exited(1, f"{begin} tls: private key does not match public key")
        names = _names(certificate)
        if hostname not in names:
            words = f"x509: certificate is valid for {', '.join(names)}, not {hostname}"
            raise Exited(
                1, f'derper: can not start cert provider: cert invalid for hostname "{hostname}": {words}'
            )
        pin = hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()
        node = {"Name": "custom", "RegionID": 900, "HostName": hostname, "CertName": f"sha256-raw:{pin}"}
        self._log(
            f'Using self-signed certificate for IP address "{hostname}". Configure it in DERPMap using:'
            f" (https://tailscale.com/s/custom-derp)\n  {json.dumps(node, separators=(',', ':'))}"
        )
        return pieces["crt"], pieces["key"]


def _go_words(verb: str, path: str, error: OSError) -> str:
    return f"{verb} {path}: {(error.strerror or '').lower()}"


def _parse_certificate(pem: bytes) -> x509.Certificate | None:
    with contextlib.suppress(ValueError):
        return x509.load_pem_x509_certificate(pem)
    return None


def _parse_key(pem: bytes) -> PrivateKeyTypes | None:
    with contextlib.suppress(ValueError, TypeError):
        return serialization.load_pem_private_key(pem, None)
    return None


def _names(certificate: x509.Certificate) -> list[str]:
    """The host names and addresses that it is for."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    addresses = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    return addresses + names.get_values_for_type(x509.DNSName)
