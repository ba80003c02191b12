"""The lab: hosts in namespaces, each with its own network, files, OpenSSH server and Docker Engine, on one Debian machine.

Needs root and the packages docker.io, openssh-server, iproute2 and iptables; rootless hosts also rootlesskit, slirp4netns and
uidmap. What kinds of hosts there are stands in `kinds`. Everything a lab consists of is found again from its folder's path
alone, so `down` also clears what a crash left behind.
"""

import hashlib
import json
import os
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from tests.lab import kinds, network
from tests.lab.host import Host
from tests.lab.kinds import GOOD, Kind
from tests.lab.parts import LabError, lock, recorded, wait, write_key, write_private

STATE = Path("var/lab")


class Lab:
    """A lab in a folder. Two labs in two folders do not meet."""

    def __init__(self, state: Path = STATE) -> None:
        self.state = state.resolve()
        self.mark = "dl" + hashlib.sha256(str(self.state).encode()).hexdigest()[:6]
        # Unix sockets have paths of 107 bytes at most, wherever the state lies.
        self.runtime = Path(tempfile.gettempdir(), f"{self.mark}-run")
        self.bridge = f"{self.mark}br"

    @property
    def hosts(self) -> list[Host]:
        """The hosts of the lab that was brought up; empty when there is none."""
        try:
            read = json.loads((self.state / "lab.json").read_text())["hosts"]
        except FileNotFoundError:
            return []
        return [Host(**{**host, "kind": Kind(**host["kind"])}) for host in read]

    @property
    def gateway(self) -> str:
        """This machine's address as the hosts see it."""
        return str(json.loads((self.state / "lab.json").read_text())["gateway"])

    def up(self, hosts: int = len(GOOD), kinds: Sequence[Kind] = GOOD) -> list[Host]:
        """Brings up what does not run yet, and returns the hosts when all answer. Raises LabError.

        Host N is of the Nth kind, and stays of the kind that it was made as; hosts beyond the kinds are plain ones.
        """
        if os.geteuid() != 0:
            raise LabError("the lab needs root")
        with self._locked():
            known = self.hosts
            with lock(
                Path(tempfile.gettempdir(), "derpmgmt-lab.lock")
            ):  # two labs choose one after the other
                subnet = int(known[0].address.split(".")[2]) if known else network.free_subnet()
                gateway = f"10.77.{subnet}.1"
                network.make_bridge(self.bridge, gateway)
            key = self.state / "id_ed25519"
            if not key.exists():
                key.with_suffix(".pub").write_text(write_key(key) + "\n")
            wanted = [host.kind for host in known] + list(kinds)[len(known) :]
            wanted += [Kind()] * (hosts - len(wanted))
            made = [
                self._make_host(number, subnet, kind)
                for number, kind in enumerate(wanted[: max(hosts, len(known))], 1)
            ]
            write_private(
                self.state / "lab.json",
                json.dumps({"gateway": gateway, "hosts": [asdict(host) for host in made]}, indent=2),
            )
            with ThreadPoolExecutor(len(made)) as pool:
                list(pool.map(lambda host: self._start_host(host, gateway), made))
            return made

    def add(self, kind: Kind) -> Host:
        """One more host of that kind beside those that are up, or the one that is there already. Raises LabError."""
        known = self.hosts
        for host in known[len(GOOD) :]:
            if host.kind == kind:
                return self.up()[known.index(host)]
        return self.up(len(known) + 1, [host.kind for host in known] + [kind])[-1]

    def down(self) -> None:
        """Ends and removes everything, whether or not it came up whole. Raises RuntimeError if a process cannot be ended."""
        with self._locked():
            namespaces = network.namespaces_of(f"{self.mark}h")
            running = {pid for path in self.state.glob("host*/*.pid") if (pid := recorded(path))}
            network.end_everything(namespaces, self.mark, running)
            network.unmount_below([self.state, self.runtime])
            for address in self.runtime.glob("host*/containerd/io.containerd.runtime.v2.task/*/*/address"):
                Path(address.read_text().strip().removeprefix("unix://")).unlink(missing_ok=True)
            network.remove_wires(namespaces, f"{self.mark}v", self.bridge)
            network.remove_cgroups(self.mark)
            network.remove_folder(self.runtime)
            for path in self.state.glob("host*"):
                network.remove_folder(path)
            for name in ("lab.json", "id_ed25519", "id_ed25519.pub"):
                (self.state / name).unlink(missing_ok=True)
        (self.state / "lock").unlink(missing_ok=True)
        with suppress(OSError):
            self.state.rmdir()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        with lock(self.state / "lock"):
            yield

    def _make_host(self, number: int, subnet: int, kind: Kind) -> Host:
        folder, runtime = self.state / f"host{number}", self.runtime / f"host{number}"
        folder.mkdir(mode=0o700, exist_ok=True)
        runtime.mkdir(mode=0o700, parents=True, exist_ok=True)
        first = folder / "first_host_key"
        if not first.exists():
            first.with_suffix(".pub").write_text(write_key(first))
            write_private(folder / "host_key", first.read_text())
        rootless_home = f"/home/{kinds.ROOTLESS_USER}"
        host = Host(
            name=f"host{number}",
            address=f"10.77.{subnet}.{10 + number}",
            ssh_port=22,
            user=kind.user,
            private_key_path=str(self.state / "id_ed25519"),
            host_key=first.with_suffix(".pub").read_text(),
            docker_socket=f"/run/user/{kinds.ROOTLESS_UID}/docker.sock"
            if kind.is_rootless
            else str(runtime / "docker.sock"),
            data_root=f"{rootless_home}/.local/share/docker" if kind.is_rootless else str(folder / "docker"),
            netns=f"{self.mark}h{number}",
            wire=f"{self.mark}v{number}",
            folder=str(folder),
            runtime=str(runtime),
            cgroup=f"{self.mark}/host{number}",
            kind=kind,
        )
        self._configure(host)
        return host

    def _configure(self, host: Host) -> None:
        folder = Path(host.folder)
        for name in ("etc", "etc-work", "etc/docker", "home"):
            (folder / name).mkdir(mode=0o755, exist_ok=True)
        identity = folder / "boot_id"
        if not identity.exists():
            identity.write_text(f"{uuid.uuid4()}\n")
            for name, text in kinds.etc_files(host.kind, host.name, uuid.uuid4().hex).items():
                (folder / "etc" / name).write_text(text)
            (folder / "etc/docker/daemon.json").write_text(json.dumps(host.kind.daemon))
            write_private(folder / "containerd.toml", kinds.containerd_config(folder, Path(host.runtime)))
            write_private(
                folder / "sshd_config", kinds.sshd_config(host.kind, folder, host.address, host.ssh_port)
            )
            (folder / "forwarding.conf").write_text(
                f"AllowStreamLocalForwarding {'yes' if host.kind.is_forwarding else 'no'}\n"
            )
            for user, number in (("root", 0), (kinds.ROOTLESS_USER, kinds.ROOTLESS_UID)):
                home = folder / "home" / user
                (home / ".ssh").mkdir(mode=0o755, parents=True)
                (home / ".bashrc").write_text(kinds.bashrc(host.kind, host.name))
                public = Path(f"{host.private_key_path}.pub").read_text()
                (home / ".ssh/authorized_keys").write_text(public)
                os.chown(home, number, number)

    def _start_host(self, host: Host, gateway: str) -> None:
        network.make_namespace(host.netns, host.wire, self.bridge, host.address, gateway)
        host.boot()
        host.run_daemons()
        wait(host.ssh_answers, f"the SSH server of {host.name}", Path(host.folder, "sshd.log"))
        wait(host.docker_answers, f"the Docker Engine of {host.name}", Path(host.folder, "dockerd.log"))


@contextmanager
def lab(hosts: int = len(GOOD), state: Path = STATE, kinds: Sequence[Kind] = GOOD) -> Iterator[Lab]:
    """A lab that is up inside, and taken down whatever happens."""
    made = Lab(state)
    try:
        made.up(hosts, kinds)
        yield made
    finally:
        made.down()
