"""The lab: hosts in namespaces, each with its own network, files, OpenSSH server and Docker Engine, on one Debian machine.

Needs root and the packages docker.io, openssh-server, iproute2 and iptables; rootless hosts also rootlesskit, slirp4netns and
uidmap. What kinds of hosts there are stands in `kinds`. Everything a lab consists of is found again from its folder's path
alone, so `down` also clears what a crash left behind.
"""

import fcntl
import hashlib
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from tests.lab import kinds, network
from tests.lab.kinds import GOOD, Kind

STATE = Path("var/lab")
START_SECONDS = 60.0


class LabError(Exception):
    """The lab could not be brought up; the text says why."""


@dataclass(frozen=True)
class Host:
    """One host, and what can be done to it. Paths are absolute; `host_key` is a line `type base64`.

    `docker_socket` and `data_root` are paths on the host. Where it is not rootless they are the same here.
    """

    name: str
    address: str
    ssh_port: int
    user: str
    private_key_path: str
    host_key: str
    docker_socket: str
    data_root: str
    netns: str
    wire: str
    folder: str
    runtime: str
    cgroup: str
    kind: Kind

    @property
    def private_key(self) -> str:
        """The text of the key that may sign in."""
        return Path(self.private_key_path).read_text()

    @property
    def docker_socket_here(self) -> Path:
        """The Docker socket as this machine reaches it."""
        if not self.kind.is_rootless:
            return Path(self.docker_socket)
        return Path(f"/proc/{_recorded(self._folder / 'init.pid')}/root{self.docker_socket}")

    def stop_docker(self) -> None:
        """Ends the Docker Engine as an operator would: containers stop first, its socket goes."""
        _end(self._folder / "dockerd.pid", signal.SIGTERM)

    def kill_docker(self) -> None:
        """Ends the Docker Engine at once; containers keep running and the dead socket stays."""
        _end(self._folder / "dockerd.pid", signal.SIGKILL)

    def start_docker(self) -> None:
        """Starts the Docker Engine, if it does not run, and waits until it answers."""
        self._run_daemons(only=self._engine)
        _wait(self._docker_answers, f"the Docker Engine of {self.name}", self._folder / "dockerd.log")

    def freeze_docker(self) -> None:
        """The Docker Engine hangs: connections are accepted by the kernel, nobody answers."""
        self._signal("dockerd", signal.SIGSTOP)

    def thaw_docker(self) -> None:
        """The Docker Engine goes on."""
        self._signal("dockerd", signal.SIGCONT)

    def stop_ssh(self) -> None:
        """Ends the SSH server with its sessions: new connections are refused, old ones end."""
        _end(self._folder / "sshd.pid", signal.SIGTERM)
        for pid in self._ssh_sessions():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def start_ssh(self) -> None:
        """Starts the SSH server, if it does not run, and waits until it answers."""
        self._run_daemons(only=("sshd",))
        _wait(self._ssh_answers, f"the SSH server of {self.name}", self._folder / "sshd.log")

    def freeze_ssh(self) -> None:
        """The SSH server and its sessions hang: TCP connects, nobody speaks."""
        self._signal("sshd", signal.SIGSTOP)
        for pid in self._ssh_sessions():
            os.kill(pid, signal.SIGSTOP)

    def thaw_ssh(self) -> None:
        """The SSH server and its sessions go on."""
        for pid in self._ssh_sessions():
            os.kill(pid, signal.SIGCONT)
        self._signal("sshd", signal.SIGCONT)

    def cut_network(self) -> None:
        """Every packet to and from the host vanishes."""
        network.ip("link", "set", self.wire, "down")

    def mend_network(self) -> None:
        """Packets flow again."""
        network.ip("link", "set", self.wire, "up")

    def change_host_key(self) -> str:
        """Gives the host another key, as a reinstallation would, and returns its line; `restore_host_key` undoes it."""
        line = _write_key(self._folder / "host_key")
        self.stop_ssh()
        self.start_ssh()
        return line

    def restore_host_key(self) -> None:
        """Gives the host back the key it began with."""
        key = self._folder / "host_key"
        key.write_bytes(self._folder.joinpath("first_host_key").read_bytes())
        self.stop_ssh()
        self.start_ssh()

    def allow_forwarding(self, allowed: bool, more: str = "") -> None:
        """Lets the SSH server forward to unix sockets, or forbids it; `more` are further lines of its settings."""
        (self._folder / "forwarding.conf").write_text(
            f"AllowStreamLocalForwarding {'yes' if allowed else 'no'}\n{more}\n"
        )
        self.stop_ssh()
        self.start_ssh()

    @property
    def _folder(self) -> Path:
        return Path(self.folder)

    def _signal(self, daemon: str, number: int) -> None:
        pid = _recorded(self._folder / f"{daemon}.pid")
        if pid is None:
            raise LabError(f"{daemon} of {self.name} does not run")
        os.kill(pid, number)

    def _ssh_sessions(self) -> list[int]:
        found = []
        for pid in network.pids_in_namespace(self.netns):
            with suppress(OSError):
                if Path(f"/proc/{pid}/cmdline").read_bytes().startswith((b"sshd: ", b"sshd-")):
                    found.append(pid)
        return found

    @property
    def _engine(self) -> tuple[str, ...]:
        return tuple(name for name in self._commands() if name != "sshd")

    def _commands(self) -> dict[str, list[str]]:
        folder = self._folder
        engine = kinds.engine_commands(self.kind, folder, Path(self.runtime), self.docker_socket, self.cgroup)
        return engine | {"sshd": ["/usr/sbin/sshd", "-D", "-e", "-f", f"{folder}/sshd_config"]}

    def boot(self) -> None:
        """Makes the mount namespace that all daemons of the host live in, if there is none."""
        record = self._folder / "init.pid"
        if _recorded(record) is not None:
            return
        booted = Path(self.runtime, "booted")
        booted.unlink(missing_ok=True)
        script = kinds.boot_script(self.kind, self._folder, Path(self.runtime), self._folder / "boot_id")
        command = ["unshare", "--mount", "--propagation", "slave", "--", "sh", "-c", script]
        self._spawn("init", [f"--net=/run/netns/{self.netns}"], command)
        _wait(booted.exists, f"the files of {self.name}", self._folder / "init.log")

    def _run_daemons(self, only: tuple[str, ...] = ()) -> None:
        if "containerd" in only and _recorded(self._folder / "containerd.pid") is None:
            _end(self._folder / "dockerd.pid", signal.SIGKILL)
        init = _recorded(self._folder / "init.pid")
        for name, command in self._commands().items():
            if (only and name not in only) or _recorded(self._folder / f"{name}.pid") is not None:
                continue
            if name == "dockerd":
                Path(self.runtime, "dockerd.own.pid").unlink(missing_ok=True)
            self._spawn(name, [f"--net=/run/netns/{self.netns}", f"--mount=/proc/{init}/ns/mnt"], command)
            if name == "containerd":
                _wait(
                    lambda: _connects(f"{self.runtime}/containerd.sock"),
                    f"containerd of {self.name}",
                    self._folder / "containerd.log",
                )

    def _spawn(self, name: str, namespaces: list[str], command: list[str]) -> None:
        if self.kind.is_rootless and name == "dockerd":  # its network namespaces are of its own making
            command = network.in_cgroup(self.cgroup, command)
        with (self._folder / f"{name}.log").open("ab") as log:
            # Not `ip netns exec`: that mounts its own /sys, without the control groups.
            process = subprocess.Popen(
                ["nsenter", *namespaces, "--", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": self.kind.path, "HOME": "/home/root"},
                start_new_session=True,
            )
        record = self._folder / f"{name}.pid"
        record.write_text(f"{process.pid} {network.started_at(process.pid)}")

    def _ssh_answers(self) -> bool:
        with suppress(OSError), socket.create_connection((self.address, self.ssh_port), 1) as sock:
            return sock.recv(4) == b"SSH-"
        return False

    def _docker_answers(self) -> bool:
        with suppress(OSError), socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(2)
            sock.connect(str(self.docker_socket_here))
            sock.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b" 200 " in sock.recv(64)
        return False

    @property
    def is_up(self) -> bool:
        """Whether SSH server and Docker Engine answer."""
        return self._ssh_answers() and self._docker_answers()


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
            with _lock(
                Path(tempfile.gettempdir(), "derpmgmt-lab.lock")
            ):  # two labs choose one after the other
                subnet = int(known[0].address.split(".")[2]) if known else network.free_subnet()
                gateway = f"10.77.{subnet}.1"
                network.make_bridge(self.bridge, gateway)
            key = self.state / "id_ed25519"
            if not key.exists():
                key.with_suffix(".pub").write_text(_write_key(key) + "\n")
            wanted = [host.kind for host in known] + list(kinds)[len(known) :]
            wanted += [Kind()] * (hosts - len(wanted))
            made = [
                self._make_host(number, subnet, kind)
                for number, kind in enumerate(wanted[: max(hosts, len(known))], 1)
            ]
            _write(
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
            recorded = {pid for path in self.state.glob("host*/*.pid") if (pid := _recorded(path))}
            network.end_everything(namespaces, self.mark, recorded)
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
        with _lock(self.state / "lock"):
            yield

    def _make_host(self, number: int, subnet: int, kind: Kind) -> Host:
        folder, runtime = self.state / f"host{number}", self.runtime / f"host{number}"
        folder.mkdir(mode=0o700, exist_ok=True)
        runtime.mkdir(mode=0o700, parents=True, exist_ok=True)
        first = folder / "first_host_key"
        if not first.exists():
            first.with_suffix(".pub").write_text(_write_key(first))
            _write(folder / "host_key", first.read_text())
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
            _write(folder / "containerd.toml", kinds.containerd_config(folder, Path(host.runtime)))
            _write(folder / "sshd_config", kinds.sshd_config(host.kind, folder, host.address, host.ssh_port))
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
        host._run_daemons()
        _wait(host._ssh_answers, f"the SSH server of {host.name}", Path(host.folder, "sshd.log"))
        _wait(host._docker_answers, f"the Docker Engine of {host.name}", Path(host.folder, "dockerd.log"))


@contextmanager
def lab(hosts: int = len(GOOD), state: Path = STATE, kinds: Sequence[Kind] = GOOD) -> Iterator[Lab]:
    """A lab that is up inside, and taken down whatever happens."""
    made = Lab(state)
    try:
        made.up(hosts, kinds)
        yield made
    finally:
        made.down()


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)


def _write_key(path: Path) -> str:
    """Writes a new private key (0600) and returns the public key's line."""
    key = ed25519.Ed25519PrivateKey.generate()
    _write(
        path,
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        ).decode(),
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return public.decode()


def _recorded(path: Path) -> int | None:
    """The process in a record file, if it is still that process and runs."""
    try:
        pid, started = path.read_text().split()
    except (FileNotFoundError, ValueError):
        return None
    return int(pid) if network.is_running(int(pid)) and network.started_at(int(pid)) == started else None


def _end(record: Path, number: int) -> None:
    pid = _recorded(record)
    if pid is not None:
        os.kill(pid, number)
        os.kill(pid, signal.SIGCONT)
        _wait(lambda: _recorded(record) is None, f"the end of {record.stem}", None)
    record.unlink(missing_ok=True)


def _connects(path: str) -> bool:
    with suppress(OSError), socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        return True
    return False


def _wait(done: Callable[[], bool], what: str, log: Path | None) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not done():
        if time.monotonic() > deadline:
            said = log.read_text(errors="replace")[-2000:] if log and log.exists() else ""
            raise LabError(f"waited {START_SECONDS:.0f} s in vain for {what}\n{said}")
        time.sleep(0.03)
