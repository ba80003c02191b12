"""What may be wrong with a server of the sandbox, and where that is written down."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Faults:
    """The switches of one server; all off on a healthy one.

    ``down``: the server refuses connections and its relays are gone until it is back. ``ssh_hung``: it accepts
    connections and says nothing. ``other_host_key``: it presents a host key that nobody has seen. ``turns_away``: it
    says "Not allowed at this time" instead of a version, as for PerSourcePenalties. ``old_algorithms``: it knows only
    key exchanges that nobody uses any more. ``wants_both``: it wants the key and then the password
    (AuthenticationMethods). ``login_shell``: "" = well, "prints" = the login shell prints before and after each
    command, "nologin" and "expired" = it says why it runs none. ``max_sessions``: commands at a time on one connection.
    ``streamlocal_refused``: SSH forwards no sockets. ``docker``: "" = well, "absent" = not installed, "down" = the
    socket is there and nobody listens, "hung" = the daemon accepts requests and never answers. ``no_ps``: it has no
    command that lists processes. ``top_refused``: the Engine's words for why it may not list them, as rootless ones do.
    ``other_ps``: it lists them, but in columns of its own choice. ``rootless``: the Engine says that it runs rootless.
    ``hides_processes``: /proc shows each user their own processes alone (hidepid), and the panel's user is not root.
    ``rewrites_sources``: the address that all who come to its relays seem to have, as where published ports go through a
    program of the host ("" = their own); for relays started from then on. ``machine``: what `uname -m` says ("" = x86_64).
    ``podman``: podman answers in the Engine's place. ``no_forwarding``: its kernel forwards no IPv4. ``disk_full``: the
    Engine cannot write. ``broken_images``: beginnings of image tags whose program cannot run. ``clock_offset``: seconds by which the
    server's clock is ahead. ``dies_after``: as ``down``, from the moment that a request with this method and path
    (without version, such as "POST /images/load") was carried out but not answered.
    """

    down: bool = False
    ssh_hung: bool = False
    other_host_key: bool = False
    turns_away: bool = False
    old_algorithms: bool = False
    wants_both: bool = False
    login_shell: str = ""
    max_sessions: int = 10
    streamlocal_refused: bool = False
    docker: str = ""
    no_ps: bool = False
    top_refused: str = ""
    other_ps: bool = False
    rootless: bool = False
    rewrites_sources: str = ""
    hides_processes: bool = False
    machine: str = ""
    podman: bool = False
    no_forwarding: bool = False
    disk_full: bool = False
    broken_images: list[str] = field(default_factory=list)
    clock_offset: float = 0.0
    dies_after: str = ""

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Faults:
        """Raises ValueError for a switch that does not exist."""
        unknown = set(value) - {item.name for item in fields(cls)}
        if unknown:
            raise ValueError(f"unknown faults: {', '.join(sorted(unknown))}")
        return cls(**value)


class FaultFile:
    """``faults.json`` of a sandbox: server name → its switches. Missing and unreadable files mean no faults at all."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, int] | None = None

    def changed(self) -> bool:
        """Whether the file is another one than at the last call."""
        try:
            status = self.path.stat()
        except OSError:
            now = None
        else:
            now = (status.st_mtime_ns, status.st_size)
        changed = now != self._seen
        self._seen = now
        return changed

    def read(self) -> dict[str, Faults]:
        try:
            content = json.loads(self.path.read_text())
            return {name: Faults.from_json(value) for name, value in content.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, AttributeError, TypeError) as error:
            logger.warning(
                "%s says nothing usable, so nothing is wrong with any server: %s", self.path, error
            )
            return {}

    def write(self, faults: dict[str, Faults]) -> None:
        temporary = self.path.with_suffix(".new")
        temporary.write_text(json.dumps({name: asdict(value) for name, value in faults.items()}, indent=1))
        temporary.replace(self.path)
