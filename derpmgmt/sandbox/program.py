"""What a container of the sandbox runs, seen from its Engine: the interface of its programs, and what they find around them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from derpmgmt.sandbox.wire import Wire, nowhere

Resolve = Callable[[str, int], tuple[str, int]]
"""Where a host's name and port lead to from inside a container. Raises OSError, as a look-up or a connection would."""


class Exited(Exception):
    """The program has ended by itself; what it said is in ``lines``, without the time that stands before lines of a log."""

    def __init__(self, exit_code: int, *lines: str, plain: bool = False) -> None:
        super().__init__(*lines)
        self.exit_code = exit_code
        self.lines = lines
        self.plain = plain


@dataclass(frozen=True)
class Surroundings:
    """What a program finds around it.

    ``address``: the server's own. ``read``: gives a file of the container or raises OSError as its user would see it. ``log``:
    takes one line, before which the time will stand. ``locate``: the port on the host that a port and protocol of the
    container is published at, 0 when it is not. ``seen_source``: the address that everybody seems to come from, "" = their own.
    ``wire``: counts what it receives and sends.
    """

    address: str
    read: Callable[[str], bytes]
    log: Callable[[str], None]
    locate: Callable[[int, str], int]
    resolve: Resolve
    seen_source: str = ""
    wire: Wire = nowhere


class Program(Protocol):
    """One program in one container. ``ENDS``: signals that end it → its exit code then; it ignores others, except HUP where
    ``reloads_on_hangup`` says so."""

    ENDS: dict[str, int]
    reloads_on_hangup: bool

    def __init__(self, command: list[str], around: Surroundings) -> None: ...

    async def start(self) -> None:
        """Raises Exited when it ends at once, OSError when ports on the host are taken."""

    async def stop(self) -> None: ...

    def reload(self) -> None:
        """What HUP makes it do, where that does not end it."""

    def processes(self) -> dict[int, str]:
        """Its process ids and what a list of processes says of each."""

    @property
    def connections(self) -> int:
        """How many TCP connections to its ports there are."""

    def place_of(self, port: int) -> tuple[str, int] | None:
        """Where this machine's programs find what it offers other containers on a port; None when it offers nothing there."""
