"""A folder that looks like /proc of a host with containers, for the script that reads it."""

from pathlib import Path

# Of two namespaces: one lists what relays have, the other a container on two networks.
_DEV = """Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     500       5    0    0    0     0          0         0      500       5    0    0    0     0       0          0
"""
_IGMP = "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n1\tlo        :     1      V3\n\t\t\t\t010000E0     1 0:00000000\t\t0\n"
_TCP = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


class Proc:
    """Processes are added one by one; `folder` is what stands for /proc."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def process(
        self,
        pid: int,
        name: str,
        *,
        parent: int = 1,
        start: int = 1,
        cgroup: str = "/",
        ticks: tuple[int, int] = (0, 0),
        pages: int = 0,
        mounts: str = "",
    ) -> Path:
        """One process; `ticks` are its own and those of its children that ended. Gives its folder."""
        folder = self.folder / str(pid)
        folder.mkdir(parents=True)
        before_start = f"S {parent} {pid} {pid} 0 -1 0 0 0 0 0 {ticks[0]} 0 {ticks[1]} 0 20 0 1 0"
        (folder / "stat").write_text(f"{pid} ({name}) {before_start} {start} 99999 {pages} 184467 1 1\n")
        # As control groups v2 say it, and v1 with more than one hierarchy (cgroups(7)).
        hierarchies = (
            ("0::",) if cgroup.endswith(".scope") else ("12:rdma:/\n3:cpu,cpuacct:", "1:name=systemd:")
        )
        (folder / "cgroup").write_text("".join(f"{each}{cgroup}\n" for each in hierarchies) if cgroup else "")
        (folder / "mountinfo").write_text(mounts)
        return folder

    def network(
        self,
        pid: int,
        interfaces: list[tuple[str, int, int, int]],
        *,
        tcp: str = "",
        tcp6: str = "",
    ) -> None:
        """What a process sees of its network; `interfaces`: name, index, bytes received and sent."""
        net = self.folder / str(pid) / "net"
        net.mkdir()
        lines = [
            f"{name:>6}:{got} 1 0 0 0 0 0 0 {gave} 1 0 0 0 0 0 0\n" for name, _index, got, gave in interfaces
        ]
        (net / "dev").write_text(_DEV + "".join(lines))
        told = [
            f"{index}\t{name}      :     1      V3\n\t\t\t\t010000E0     1 0:00000000\t\t0\n"
            for name, index, _, _ in interfaces
        ]
        (net / "igmp").write_text(_IGMP + "".join(told))
        for ending, sockets in (("", tcp), ("6", tcp6)):
            (net / f"tcp{ending}").write_text(_TCP + sockets)
            number = sum(f" {state} " in line for line in sockets.splitlines() for state in ("0A", "01"))
            name = f"TCP{ending}"
            (net / f"sockstat{ending}").write_text(
                f"sockets: used 9\n{name}: inuse {number} orphan 0\nUDP{ending}: inuse 7\n"
            )


def socket_line(port: int, state: str, *, is_long: bool = False) -> str:
    """A line of /proc/net/tcp; state 0A listens, 01 is established."""
    address = "0" * (32 if is_long else 8)
    return f"   0: {address}:{port:04X} {address}:C350 {state} 00000000:00000000 00:00000000 00000000 65532        0 1 1 0 100 0 0 10 0\n"
