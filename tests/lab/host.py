"""One host of a lab, and what can be done to it: its daemons, its SSH server, its Docker Engine, its network."""

import os
import signal
import socket
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.lab import kinds, network
from tests.lab.kinds import Kind
from tests.lab.parts import LabError, connects, end, recorded, wait, write_key


def _losses(share: float) -> list[list[str]]:
    by_chance = ["-m", "statistic", "--mode", "random", "--probability", str(share), "-j", "DROP"]
    return [["PREROUTING", "-i", "eth0", *by_chance], ["POSTROUTING", "-o", "eth0", *by_chance]]


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
        return Path(f"/proc/{recorded(self._folder / 'init.pid')}/root{self.docker_socket}")

    def stop_docker(self) -> None:
        """Ends the Docker Engine as an operator would: containers stop first, its socket goes."""
        end(self._folder / "dockerd.pid", signal.SIGTERM)

    def kill_docker(self) -> None:
        """Ends the Docker Engine at once; containers keep running and the dead socket stays."""
        end(self._folder / "dockerd.pid", signal.SIGKILL)

    def start_docker(self) -> None:
        """Starts the Docker Engine, if it does not run, and waits until it answers."""
        self.run_daemons(only=self._engine)
        wait(self.docker_answers, f"the Docker Engine of {self.name}", self._folder / "dockerd.log")

    def freeze_docker(self) -> None:
        """The Docker Engine hangs: connections are accepted by the kernel, nobody answers."""
        self._signal("dockerd", signal.SIGSTOP)

    def thaw_docker(self) -> None:
        """The Docker Engine goes on."""
        self._signal("dockerd", signal.SIGCONT)

    def stop_ssh(self) -> None:
        """Ends the SSH server with its sessions: new connections are refused, old ones end."""
        end(self._folder / "sshd.pid", signal.SIGTERM)
        for pid in self._ssh_sessions():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def start_ssh(self) -> None:
        """Starts the SSH server, if it does not run, and waits until it answers."""
        self.run_daemons(only=("sshd",))
        wait(self.ssh_answers, f"the SSH server of {self.name}", self._folder / "sshd.log")

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

    def lose_packets(self, share: float) -> None:
        """Of the packets that come, and of those that go, this share vanishes, each by chance. Not every kernel has netem."""
        for rule in _losses(share):
            network.run_inside(self.netns, "iptables", "-t", "mangle", "-I", *rule)

    def lose_no_packets(self, share: float) -> None:
        """Undoes `lose_packets`."""
        for rule in _losses(share):
            network.run_inside(self.netns, "iptables", "-t", "mangle", "-D", *rule)

    def change_host_key(self) -> str:
        """Gives the host another key, as a reinstallation would, and returns its line; `restore_host_key` undoes it."""
        line = write_key(self._folder / "host_key")
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
        pid = recorded(self._folder / f"{daemon}.pid")
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
        if recorded(record) is not None:
            return
        booted = Path(self.runtime, "booted")
        booted.unlink(missing_ok=True)
        script = kinds.boot_script(self.kind, self._folder, Path(self.runtime), self._folder / "boot_id")
        command = ["unshare", "--mount", "--propagation", "slave", "--", "sh", "-c", script]
        self._spawn("init", [f"--net=/run/netns/{self.netns}"], command)
        wait(booted.exists, f"the files of {self.name}", self._folder / "init.log")

    def run_daemons(self, only: tuple[str, ...] = ()) -> None:
        """Starts the daemons (all, or these) that do not run."""
        if "containerd" in only and recorded(self._folder / "containerd.pid") is None:
            end(self._folder / "dockerd.pid", signal.SIGKILL)
        init = recorded(self._folder / "init.pid")
        for name, command in self._commands().items():
            if (only and name not in only) or recorded(self._folder / f"{name}.pid") is not None:
                continue
            if name == "dockerd":
                Path(self.runtime, "dockerd.own.pid").unlink(missing_ok=True)
            self._spawn(name, [f"--net=/run/netns/{self.netns}", f"--mount=/proc/{init}/ns/mnt"], command)
            if name == "containerd":
                wait(
                    lambda: connects(f"{self.runtime}/containerd.sock"),
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

    def ssh_answers(self) -> bool:
        """Whether the SSH server says who it is."""
        with suppress(OSError), socket.create_connection((self.address, self.ssh_port), 1) as sock:
            return sock.recv(4) == b"SSH-"
        return False

    def docker_answers(self) -> bool:
        """Whether the Docker Engine answers a ping."""
        with suppress(OSError), socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(2)
            sock.connect(str(self.docker_socket_here))
            sock.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b" 200 " in sock.recv(64)
        return False

    @property
    def is_up(self) -> bool:
        """Whether SSH server and Docker Engine answer."""
        return self.ssh_answers() and self.docker_answers()
