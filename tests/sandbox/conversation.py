"""One conversation with a Docker Engine: the same requests to a real one (recorded) and to the sandbox (compared).

What the real Engine answered is in ``engine_20_10.json``. To record it again, as root on a machine with a Docker Engine
that holds nothing worth keeping, with a real ``derper``, Debian's nginx and the command that restarts the Engine:

    python -m tests.sandbox.conversation /var/run/docker.sock PATH_TO_DERPER PATH_TO_NGINX 'systemctl restart docker' \
        > tests/sandbox/engine_20_10.json

Only what is the same on every host is kept: ids, times and names that the Engine invents become placeholders.
"""

from __future__ import annotations

import json
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.sandbox.gate_talk import nginx_files, talk_of_gates
from tests.sandbox.questions import creating, daemon, life, programs
from tests.sandbox.talk import ADDRESS, Talk


def converse(
    talk: Talk,
    program: bytes,
    nginx: dict[str, bytes],
    files: dict[str, bytes],
    *,
    restart: Callable[[], object],
    pause: float = 1.0,
) -> None:
    """Hold the conversation.

    ``program``: the derper to put into the image, ``nginx``: the files of a gate's image. ``files``: a relay's certificate and
    keys. ``restart``: ends the Engine in order and starts it again. ``pause``: seconds until a program that was started or
    signalled has done what it does.
    """
    daemon.ask_daemon(talk)
    daemon.ask_images(talk, program)
    daemon.ask_networks_and_volumes(talk)
    creating.ask_creating(talk)
    life.ask_life(talk, files)
    life.ask_changes_by_hand(talk)
    programs.ask_ports(talk, files)
    programs.ask_failing_programs(talk, files, pause)
    talk_of_gates(talk, nginx, files[f"{talk.address}.crt"], pause, restart)
    life.ask_removal(talk)


def _record(docker_socket: str, derper: str, nginx: str, restart: str) -> dict[str, Any]:
    from tests.sandbox.parts import relay_files  # needs the libraries of the project; the rest does not

    def connect() -> socket.socket:
        channel = socket.socket(socket.AF_UNIX)
        channel.connect(docker_socket)
        return channel

    talk = Talk(connect)
    converse(
        talk,
        Path(derper).read_bytes(),
        nginx_files(nginx),
        relay_files(ADDRESS),
        restart=lambda: subprocess.check_call(shlex.split(restart)),
    )
    return talk.record


if __name__ == "__main__":
    json.dump(_record(*sys.argv[1:5]), sys.stdout, indent=1, ensure_ascii=False)
