"""What the tests of the sandbox ask it with: the panel's own client, certificates and keys."""

from __future__ import annotations

import contextlib
import hashlib
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from containers.certificates import Certificate, make_certificate
from containers.deploy import ensure_image
from containers.derp import keys
from containers.derp.probe import ProbeResult, ProbeTarget, probe_relay
from containers.image import build_placeholder
from containers.spec import NETWORK, RelaySpec
from derpmgmt.sandbox.fleet import SandboxHost
from fleet.engine import Engine, open_engine
from fleet.ssh import Connection, Endpoint
from tests.sandbox.talk import tar_of

PANEL = "0123abcd"


def endpoint_of(host: SandboxHost, **changes: Any) -> Endpoint:
    """How the panel signs in at a server of the sandbox."""
    values = {
        "host": host.address,
        "port": host.ssh_port,
        "user": host.user,
        "host_key": host.host_key,
        "private_key": Path(host.private_key_path).read_text(),
    }
    return Endpoint(**(values | changes))


def connect(host: SandboxHost, timeout: float = 10.0) -> tuple[Connection, Engine]:
    """A connection to a server and a client of its Engine."""
    connection = Connection.open(endpoint_of(host), timeout)
    return connection, open_engine(connection, host.docker_socket, timeout)


def free_port(address: str) -> int:
    """A port that is free for TCP and UDP now."""
    while True:
        with socket.socket() as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            tcp.bind((address, 0))
            port = int(tcp.getsockname()[1])
            with contextlib.suppress(OSError):
                udp.bind((address, port))
                return port


@dataclass
class Relay:
    """A relay as the panel would make it, and what is needed to prove it."""

    spec: RelaySpec
    certificate: Certificate

    @property
    def name(self) -> str:
        return self.spec.container_name

    def create(self, engine: Engine) -> None:
        """Its network, volume, container and files, not started."""
        if not engine.networks(names=[NETWORK]):
            engine.create_network(NETWORK, driver="bridge", check_duplicate=True)
        engine.create_volume(self.name, labels=self.spec.identity_labels)
        engine.create_container_from_config(self.spec.create_body, self.name)
        files = {path.rpartition("/")[2]: content for path, content in self.spec.files.items()}
        engine.put_archive(self.name, "/relay", tar_of(files))

    def run(self, engine: Engine) -> None:
        """Create and start it."""
        self.create(engine)
        engine.start(self.name)

    def probe(self) -> ProbeResult:
        """The panel's proof: a packet carried, STUN answered."""
        spec = self.spec
        target = ProbeTarget(
            host=spec.address,
            derp_port=spec.derp_port,
            stun_port=spec.stun_port,
            cert_sha256=self.certificate.sha256,
            public_key=keys.public_key_of(spec.private_key),
            mesh_key=spec.mesh_key,
            expect_source=None,
        )
        return probe_relay(target, timeout=10.0)


def make_relay(host: SandboxHost, image: str, number: int = 1, **changes: Any) -> Relay:
    """A relay for this server, on ports that are free there."""
    certificate = make_certificate(host.address, datetime.now(UTC))
    values: dict[str, Any] = {
        "panel_id": PANEL,
        "relay_id": number,
        "address": host.address,
        "derp_port": free_port(host.address),
        "stun_port": free_port(host.address),
        "image": image,
        "certificate_pem": certificate.pem,
        "certificate_key_pem": certificate.key_pem,
        "private_key": keys.generate_private_key(),
        "mesh_key": keys.generate_mesh_key(),
    }
    return Relay(RelaySpec(**(values | changes)), certificate)


def load_image(engine: Engine, folder: Path) -> str:
    """Load the placeholder image that the panel makes; returns its tag."""
    archive = build_placeholder(folder)
    ensure_image(engine, archive)
    return archive.tag


def relay_files(address: str) -> dict[str, bytes]:
    """What the volume of a relay in the conversation holds."""
    certificate = make_certificate(address, datetime.now(UTC))
    private_key = hashlib.sha256(address.encode()).hexdigest()
    return {
        f"{address}.crt": certificate.pem.encode(),
        f"{address}.key": certificate.key_pem.encode(),
        "derper.key": f'{{"PrivateKey": "privkey:{private_key}"}}'.encode(),
    }
