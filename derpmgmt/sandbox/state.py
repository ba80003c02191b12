"""What a server of the sandbox remembers between two runs: one JSON file, and files only its owner may read."""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


def write_private(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, readable by its owner alone."""
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    temporary.replace(path)


def new_id() -> str:
    """An id as the Engine makes them: 64 hexadecimal digits."""
    return secrets.token_hex(32)


@dataclass
class State:
    """One server's memory. The Engine's objects are kept by id (volumes: by name) in the form that each module gives them.

    ``engine_id``: who its Engine says to be. ``socket_folder``: where the Docker socket is while the server runs, when this state lies too deep for a socket.
    """

    path: Path
    address: str = ""
    ssh_port: int = 0
    engine_id: str = ""
    socket_folder: str = ""
    images: dict[str, Any] = field(default_factory=dict)
    containers: dict[str, Any] = field(default_factory=dict)
    networks: dict[str, Any] = field(default_factory=dict)
    volumes: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> State:
        """Read it, or begin an empty one."""
        if not path.exists():
            return cls(path)
        return cls(path, **json.loads(path.read_text()))

    def save(self) -> None:
        content = {name: value for name, value in vars(self).items() if name != "path"}
        write_private(self.path, json.dumps(content).encode())
