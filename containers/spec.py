"""The wanted container as plain data, and its hash: what all of ours have in common, and that of one relay.

Pure: nothing here talks to a host or a database. The flags are those of cmd/derper/derper.go, the create body that
of `POST /containers/create` of the Docker Engine API (1.41 and newer).
"""

import abc
import hashlib
import ipaddress
import json
import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

NETWORK = "derpmgmt"
LABEL_PANEL = "derpmgmt.panel"
LABEL_RELAY = "derpmgmt.relay"
LABEL_SPEC = "derpmgmt.spec"
LABEL_KIND = "derpmgmt.kind"
KIND_RELAY = "relay"

# Numeric, since hosts and `FROM scratch` images know no names; 65532 is what distroless images call "nonroot".
USER_ID = 65532
# Where the relay's volume is mounted. The directory belongs to root, so a relay whose files are missing cannot make
# up a key and a certificate of its own: it stops instead.
FILES_DIR = "/relay"
# Inside the container the DERP port is fixed; only the host's differ from relay to relay. Relays from before STUN had the
# host's number inside too (`RelaySpec.inner_stun_port`) keep this one.
INNER_DERP_PORT = 8443
# What each client may send. It changes while the relay runs, so that only its being there is part of the spec.
RATE_PATH = f"{FILES_DIR}/rate.json"
# Before what derper says that it has applied (`LoadAndApplyRateConfig` in derp/derpserver/derpserver.go).
RATE_APPLIED = b"rate config applied: "
INNER_STUN_PORT = 3478

PANEL_ID = re.compile(r"[0-9a-f]{8}")
_KEY = re.compile(r"[0-9a-f]{64}")
_VERIFY_URL = re.compile(r"https?://[!-~]+")


def relay_name(panel_id: str, relay_id: int) -> str:
    """The name of a relay's container and of its volume."""
    return f"derp-{panel_id}-{relay_id}"


def rate_files(rate: int | None) -> dict[str, bytes]:
    """The file by which derper lets each client send so many bytes a second; None: as many as it can.

    It reads it when it starts, and again at each HUP. What it does not know it takes for no limit, and says so in no way: `rate_line`
    tells what it applied.
    """
    return {RATE_PATH: json.dumps({"PerClientRateLimitBytesPerSec": rate} if rate else {}).encode()}


def rate_line(rate: int | None) -> bytes:
    """What derper logs when it has applied that."""
    return RATE_APPLIED + f"client-rate={rate or 0} bytes/sec,".encode()


def relay_labels(panel_id: str, relay_id: int) -> dict[str, str]:
    """The labels that say whose a relay's container and volume are."""
    return {LABEL_PANEL: panel_id, LABEL_RELAY: str(relay_id), LABEL_KIND: KIND_RELAY}


class ContainerSpec(abc.ABC):
    """One container of ours, hardened, on the network of all, with one volume for its files; subclasses are frozen dataclasses."""

    panel_id: str

    @property
    @abc.abstractmethod
    def container_name(self) -> str:
        """The container's name; its volume bears the same."""

    @property
    @abc.abstractmethod
    def files_dir(self) -> str:
        """Where in the container its volume is mounted."""

    @property
    @abc.abstractmethod
    def files(self) -> dict[str, bytes]:
        """Absolute path in the container → content of every file that is part of what it should be."""

    @property
    @abc.abstractmethod
    def identity_labels(self) -> dict[str, str]:
        """The labels that say whose this is: those of the volume, which outlives no change of the spec."""

    @property
    @abc.abstractmethod
    def _unlabelled_body(self) -> dict[str, Any]: ...

    @property
    def labels(self) -> dict[str, str]:
        """The container's labels: whose it is and the hash of this spec."""
        return {**self.identity_labels, LABEL_SPEC: self.spec_hash}

    @property
    def create_body(self) -> dict[str, Any]:
        """The body of `POST /containers/create`."""
        return {**self._unlabelled_body, "Labels": self.labels}

    @cached_property
    def spec_hash(self) -> str:
        """SHA-256, in hex, of all that decides the container: the create body and the files' contents.

        The same in every process, and another as soon as anything changes. The secrets in the files carry 256 random
        bits, so that a hash which stands in a label gives nothing away.
        """
        whole = {
            "body": self._unlabelled_body,
            "identity": self.identity_labels,
            "files": {path: hashlib.sha256(content).hexdigest() for path, content in self.files.items()},
        }
        canonical = json.dumps(whole, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def _hardened(self, *, memory_bytes: int, pids_limit: int, restart: str) -> dict[str, Any]:
        """The part of `HostConfig` that every container of ours has."""
        return {
            "NetworkMode": NETWORK,
            # Not read-only: the Engine refuses to put files into a read-only mount, even before the start.
            "Mounts": [{"Type": "volume", "Source": self.container_name, "Target": self.files_dir}],
            "ReadonlyRootfs": True,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "Memory": memory_bytes,
            "MemorySwap": memory_bytes,
            "PidsLimit": pids_limit,
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "2"}},
            "RestartPolicy": {"Name": restart, "MaximumRetryCount": 0},
        }


@dataclass(frozen=True)
class RelaySpec(ContainerSpec):
    """Everything that decides what one relay's container is.

    `panel_id` is the panel's own 8 lowercase hex digits; several panels may share a host. `relay_id` is the relay's
    primary key, 0 or more. `address` is the server's public IPv4 address: the relay's host name and its
    certificate's name. `bind_address` is the IPv4 address of the host that the ports are bound to; it is the public
    address unless given, and `0.0.0.0` on clouds whose hosts do not hold their public address. `image` is the tag of
    the image. `private_key` and `mesh_key` are 64 lowercase hex digits. `verify_url` is asked before a client is let
    in; empty lets everybody in, and `fail_open` says whether everybody gets in while it does not answer. `memory_bytes`
    bounds memory and swap together: derper takes 16 MiB at rest and up to 100 KiB a connection. `inner_stun_port` is STUN's
    port inside the container. `takes_rate` says that it reads from a file how much its clients may send
    (`rate_files`). Raises ValueError for anything else.
    """

    panel_id: str
    relay_id: int
    address: str
    derp_port: int
    stun_port: int
    image: str
    certificate_pem: str
    certificate_key_pem: str = field(repr=False)
    private_key: str = field(repr=False)
    mesh_key: str = field(repr=False)
    bind_address: str = ""
    verify_url: str = ""
    fail_open: bool = False
    inner_stun_port: int = INNER_STUN_PORT
    takes_rate: bool = False
    memory_bytes: int = 128 * 1024 * 1024
    pids_limit: int = 256

    def __post_init__(self) -> None:
        if not self.bind_address:
            object.__setattr__(self, "bind_address", self.address)
        # The messages name the field only: a value may be a secret.
        for name in ("address", "bind_address"):
            try:
                ipaddress.IPv4Address(getattr(self, name))
            except ValueError:
                raise ValueError(f"{name} must be an IPv4 address") from None
        if not PANEL_ID.fullmatch(self.panel_id):
            raise ValueError("panel_id must be 8 lowercase hex digits")
        if self.relay_id < 0:
            raise ValueError("relay_id must not be negative")
        for name in ("derp_port", "stun_port", "inner_stun_port"):
            if not 1 <= getattr(self, name) <= 65535:
                raise ValueError(f"{name} must be from 1 to 65535")
        for name in ("private_key", "mesh_key"):
            if not _KEY.fullmatch(getattr(self, name)):
                raise ValueError(f"{name} must be 64 lowercase hex digits")
        if self.verify_url and not _VERIFY_URL.fullmatch(self.verify_url):
            raise ValueError("verify_url must be an http or https address")

    @property
    def container_name(self) -> str:
        return relay_name(self.panel_id, self.relay_id)

    @property
    def files_dir(self) -> str:
        return FILES_DIR

    @property
    def files(self) -> dict[str, bytes]:
        config = json.dumps({"PrivateKey": f"privkey:{self.private_key}"})
        return {
            f"{FILES_DIR}/derper.json": config.encode(),
            f"{FILES_DIR}/mesh.psk": self.mesh_key.encode(),
            f"{FILES_DIR}/{self.address}.crt": self.certificate_pem.encode(),
            f"{FILES_DIR}/{self.address}.key": self.certificate_key_pem.encode(),
            # Without limits, unless others come with it.
            **(rate_files(None) if self.takes_rate else {}),
        }

    @property
    def command(self) -> list[str]:
        """derper's arguments. `docker inspect` and `ps` show them, so no secret stands here."""
        command = [
            f"-a=:{INNER_DERP_PORT}",
            "-http-port=-1",
            "-stun=true",
            f"-stun-port={self.inner_stun_port}",
            f"-hostname={self.address}",
            "-certmode=manual",
            f"-certdir={FILES_DIR}",
            f"-c={FILES_DIR}/derper.json",
            f"-mesh-psk-file={FILES_DIR}/mesh.psk",
            # Open relays are found by derper's home page and used by strangers.
            "-home=blank",
        ]
        if self.takes_rate:
            command.append(f"-rate-config={RATE_PATH}")
        if self.verify_url:
            # derper's own default is to let everybody in while the address does not answer.
            answer = "true" if self.fail_open else "false"
            command += [
                f"-verify-client-url={self.verify_url}",
                f"-verify-client-url-fail-open={answer}",
            ]
        return command

    @property
    def identity_labels(self) -> dict[str, str]:
        return relay_labels(self.panel_id, self.relay_id)

    @property
    def _unlabelled_body(self) -> dict[str, Any]:
        derp, stun = f"{INNER_DERP_PORT}/tcp", f"{self.inner_stun_port}/udp"
        return {
            "Image": self.image,
            "Cmd": self.command,
            "User": f"{USER_ID}:{USER_ID}",
            # New rates come with HUP: as for the gate (`containers.gate`), the Engine must not take that for a stop. It takes any signal for
            # one unless another is named for that, even the one that is used anyway.
            **({"StopSignal": "SIGTERM"} if self.takes_rate else {}),
            "ExposedPorts": {derp: {}, stun: {}},
            "HostConfig": {
                **self._hardened(
                    memory_bytes=self.memory_bytes,
                    pids_limit=self.pids_limit,
                    restart="always" if self.takes_rate else "unless-stopped",
                ),
                "PortBindings": {
                    derp: [{"HostIp": self.bind_address, "HostPort": str(self.derp_port)}],
                    stun: [{"HostIp": self.bind_address, "HostPort": str(self.stun_port)}],
                },
            },
        }
