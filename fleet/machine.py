"""Which machine a server's row leads to: two rows may name one machine by different addresses, ports or names.

A machine is known by three things together. The **boot id** (`/proc/sys/kernel/random/boot_id`, proc(5)) is another one on every
kernel and after every start, so two machines that run at the same moment never share it; containers on one kernel do. The
**Docker Engine** (its ID and its folder) and the **SSH host key** stay over a restart, but a cloned disk has copies of both. So
two readings of the same moment are of one machine when the boot id is the same, and the Engine or the host key too.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from derpmgmt.lib.problems import declare
from fleet.ssh import HostKey, RemoteError

if TYPE_CHECKING:
    from fleet.engine import Engine
    from fleet.ssh import Connection

# In one line, and with marks around the answer: login shells differ, and some print words of their own.
MACHINE_SCRIPT = (
    "echo derpmgmt-machine; cat /proc/sys/kernel/random/boot_id; cat /proc/uptime; echo derpmgmt-end"
)
_SECONDS = 15.0


class SameMachine(RemoteError):
    """The machine is another row's. Codes: same_machine; same_machine_unsure (the other row's does not answer to tell)."""

    code = "same_machine"
    sentence = _(
        "This is the machine of the server “%(server)s”, so nothing on it was touched. A machine is one server: give that one "
        "more ports or capacity instead, or retire it first."
    )
    unsure = _(
        "This may be the machine of the server “%(server)s”, which does not answer now, so nothing on it was touched. If it is, "
        "correct the address of “%(server)s” instead; if it is another, try again once that one answers or is retired."
    )


declare({"same_machine_unsure": SameMachine.unsure})


@dataclass(frozen=True)
class Machine:
    """A machine as it told who it is. `engine_root` is Docker's folder, `fingerprint` the SSH host key's, `up_since` its start
    by our clock."""

    engine_id: str
    engine_root: str
    fingerprint: str
    boot_id: str
    up_since: datetime

    def is_same(self, other: "Machine") -> bool:
        """Whether both readings, made at about the same moment, are of one machine."""
        if self.boot_id != other.boot_id:
            return False
        is_same_engine = (self.engine_id, self.engine_root) == (other.engine_id, other.engine_root)
        return is_same_engine or self.fingerprint == other.fingerprint


def read_machine(connection: "Connection", engine: "Engine") -> Machine:
    """Ask a host who it is: one command and one question to its Engine. Raises RemoteError (garbage_facts), TimedOut, Unreachable."""
    from fleet.engine import engine_errors  # the Docker SDK, which most who name a machine do without

    answer = connection.run(MACHINE_SCRIPT, timeout=_SECONDS)
    boot_id, up_seconds = parse_machine(answer.stdout.decode(errors="replace"))
    with engine_errors():
        info = engine.info()
    return Machine(
        engine_id=str(info.get("ID") or "")[:100],
        engine_root=str(info.get("DockerRootDir") or "")[:200],
        fingerprint=HostKey.from_line(connection.endpoint.host_key).fingerprint,
        boot_id=boot_id,
        up_since=timezone.now() - timedelta(seconds=up_seconds),
    )


def parse_machine(output: str) -> tuple[str, float]:
    """Boot id and seconds since the start in the script's output. Raises RemoteError (garbage_facts)."""
    text = output.partition("derpmgmt-machine\n")[2].partition("derpmgmt-end")[0]
    try:
        boot_id, uptime = text.splitlines()
        return _known_id(boot_id.strip()), float(uptime.split()[0])
    except (ValueError, IndexError):
        raise RemoteError(code="garbage_facts", detail=output[:200]) from None


def _known_id(text: str) -> str:
    if not 8 <= len(text) <= 64:
        raise ValueError("no id")
    return text
