"""Kinds of hosts: what an operator may have instead of Docker's and OpenSSH's defaults, and the settings that make it so."""

from dataclasses import dataclass, field
from pathlib import Path

# The only account of a rootless host, and the number ranges below it that its containers use.
ROOTLESS_USER, ROOTLESS_UID = "relays", 3001
# Where a host of another Debian finds `programs`.
PROGRAMS = "/opt/engine"
ROOTLESS_SCRIPT = "/usr/share/docker.io/contrib/dockerd-rootless.sh"


@dataclass(frozen=True)
class Kind:
    """What sets a host apart; a plain `Kind()` has Docker's and OpenSSH's defaults.

    `is_printing`: its login shell prints lines before and after each command. `is_forwarding`: its SSH server forwards to unix
    sockets. `daemon` is what its /etc/docker/daemon.json says. `login_shell` is the program in /etc/passwd. `system` is the
    folder of another Debian (made by debootstrap) that it runs instead of this machine's, and `programs` a folder whose
    programs come before that Debian's. With `is_rootless` the Engine belongs to an unprivileged user, who signs in; with
    `is_podman` it is podman's service.
    """

    daemon: dict[str, object] = field(default_factory=dict)
    is_printing: bool = False
    is_forwarding: bool = True
    is_rootless: bool = False
    is_podman: bool = False
    login_shell: str = "/bin/bash"
    system: str = ""
    programs: str = ""

    @property
    def user(self) -> str:
        """Who signs in."""
        return ROOTLESS_USER if self.is_rootless else "root"

    @property
    def path(self) -> str:
        """Where its programs are looked for."""
        usual = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return f"{PROGRAMS}:{usual}" if self.programs else usual


NO_PROXY: dict[str, object] = {"userland-proxy": False}
# A lab's first three hosts, in this order: each is one that relays run on.
GOOD = (Kind(), Kind(daemon=NO_PROXY, is_printing=True), Kind(is_forwarding=False))
ROOTLESS = Kind(is_rootless=True)


def etc_files(kind: Kind, name: str, machine_id: str) -> dict[str, str]:
    """What the host has in /etc instead of its Debian's own files."""
    accounts = [
        f"root:x:0:0:root:/home/root:{kind.login_shell}",
        "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin",
        "sshd:x:101:65534::/run/sshd:/usr/sbin/nologin",
        f"{ROOTLESS_USER}:x:{ROOTLESS_UID}:{ROOTLESS_UID}::/home/{ROOTLESS_USER}:{kind.login_shell}",
    ]
    return {
        "passwd": "".join(f"{line}\n" for line in accounts),
        "hostname": f"{name}\n",
        "machine-id": f"{machine_id}\n",
        "subuid": f"{ROOTLESS_USER}:200000:65536\n",
        "subgid": f"{ROOTLESS_USER}:200000:65536\n",
    }


def bashrc(kind: Kind, name: str) -> str:
    """The ~/.bashrc, which bash also reads for each command that comes through SSH."""
    if not kind.is_printing:
        return ""
    return f"""echo 'Welcome to {name}!'
echo '* Documentation: https://example.com/help'
trap "echo 'Good-bye from {name}.'" EXIT
"""


def sshd_config(kind: Kind, folder: Path, address: str, port: int) -> str:
    """The SSH server's settings. Whether it forwards stands in a file of its own, so that it can change."""
    return f"""Include {folder}/forwarding.conf
ListenAddress {address}:{port}
HostKey {folder}/host_key
AuthorizedKeysFile .ssh/authorized_keys
PidFile none
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
UseDNS no
PrintMotd no
PrintLastLog no
"""


def boot_script(kind: Kind, folder: Path, runtime: Path, boot_id: Path) -> str:
    """A shell script that makes the mount namespace it runs in the host's own, says so by `RUNTIME/booted`, and stays.

    The host has an /etc, a /run and a /home of its own; state folders keep their paths. What it mounts goes with the namespace.
    """
    lines = ["set -eu"]
    if kind.system:
        new = f"{folder}/root"
        lines += [
            f"mkdir -p {new} {folder}/upper {folder}/work",
            f"mount -t overlay host -o lowerdir={kind.system},upperdir={folder}/upper,workdir={folder}/work {new}",
            *(f"mount --rbind /{name} {new}/{name}" for name in ("proc", "sys", "dev")),
            *(f"mkdir -p {new}{path} && mount --bind {path} {new}{path}" for path in (folder, runtime)),
        ]
        if kind.programs:
            lines.append(f"mkdir -p {new}{PROGRAMS} && mount --bind {kind.programs} {new}{PROGRAMS}")
        lines += [f"mkdir {new}/.before", f"cd {new}", "pivot_root . .before", "cd /", "umount -l /.before"]
    if (
        not kind.is_rootless
    ):  # the kernel gives no user a /proc of their own where something hides a part of it
        lines.append(f"mount --bind {boot_id} /proc/sys/kernel/random/boot_id")
    lines += [
        f"mount -t overlay etc -o lowerdir=/etc,upperdir={folder}/etc,workdir={folder}/etc-work /etc",
        f"mount --bind {folder}/home /home",
        "mount -t tmpfs -o mode=755 run /run",
        f"mkdir -p /run/sshd /run/lock /run/user/{ROOTLESS_UID}",
        f"chown {ROOTLESS_UID}:{ROOTLESS_UID} /run/user/{ROOTLESS_UID}",
        # As on a usual machine: everybody may ask for an interface, and mounts are shared.
        f"[ -e {runtime}/tun ] || mknod -m 666 {runtime}/tun c 10 200",
        f"[ ! -e /dev/net/tun ] || mount --bind {runtime}/tun /dev/net/tun",
        "mount --make-rshared /",
        f": >{runtime}/booted",
        "exec sleep infinity",
    ]
    return "".join(f"{line}\n" for line in lines)


def containerd_config(folder: Path, runtime: Path) -> str:
    """containerd's settings: state in the host's own folders, and none of what only Kubernetes or other disks need."""
    disabled = ("grpc.v1.cri", "snapshotter.v1.btrfs", "snapshotter.v1.zfs", "snapshotter.v1.devmapper")
    return f"""version = 2
root = "{folder}/containerd"
state = "{runtime}/containerd"
disabled_plugins = [{", ".join(f'"io.containerd.{name}"' for name in disabled)}]
[grpc]
address = "{runtime}/containerd.sock"
"""


def engine_commands(
    kind: Kind, folder: Path, runtime: Path, socket: str, cgroup: str
) -> dict[str, list[str]]:
    """Name → command of each daemon that the Engine consists of, in the order in which they start."""
    if kind.is_podman:
        where = [
            "--root",
            f"{folder}/docker",
            "--runroot",
            f"{runtime}/podman",
            "--cgroup-manager",
            "cgroupfs",
        ]
        return {"dockerd": ["podman", *where, "system", "service", "--time=0", f"unix://{socket}"]}
    engine = ["--log-level", "warn", "--host", f"unix://{socket}"]
    pools = ["--bip", "172.29.0.1/24", "--default-address-pool", "base=172.30.0.0/16,size=24"]
    if kind.is_rootless:
        user = ["setpriv", f"--reuid={ROOTLESS_UID}", f"--regid={ROOTLESS_UID}", "--clear-groups"]
        about = [f"HOME=/home/{ROOTLESS_USER}", f"XDG_RUNTIME_DIR=/run/user/{ROOTLESS_UID}"]
        return {"dockerd": [*user, "env", *about, ROOTLESS_SCRIPT, *engine, *pools]}
    return {
        "containerd": ["containerd", "--config", f"{folder}/containerd.toml", "--log-level", "warn"],
        "dockerd": [
            *("dockerd", *engine, *pools),
            *("--data-root", f"{folder}/docker", "--exec-root", f"{runtime}/docker"),
            *("--pidfile", f"{runtime}/dockerd.own.pid", "--containerd", f"{runtime}/containerd.sock"),
            *("--cgroup-parent", f"/{cgroup}", "--exec-opt", "native.cgroupdriver=cgroupfs"),
        ],
    }
