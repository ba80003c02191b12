"""Real Tailscale clients (`tailscaled`, userspace networking, made to go by relays only), asked by their LocalAPI."""

import http.client
import json
import os
import socket
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.panel.running import wait_for


def start(stack: ExitStack, command: list[str], log: Path, **settings: Any) -> "subprocess.Popen[bytes]":
    """A program that runs until the stack is left; what it says goes to `log`."""
    output = stack.enter_context(log.open("wb"))
    process = subprocess.Popen(command, stdout=output, stderr=output, **settings)
    stack.callback(process.wait)
    stack.callback(process.kill)
    return process


class Client:
    """A real `tailscaled` that signs in to a control server, with an auth key where that wants one."""

    def __init__(
        self, inside: list[str], name: str, control: str, folder: Path, stack: ExitStack, auth_key: str = ""
    ) -> None:
        programs = Path(os.environ["DERPMGMT_TEST_TAILSCALE"])
        state = folder / name
        state.mkdir()
        self.name, self._socket, self._inside = name, state / "socket", inside
        start(
            stack,
            [
                *inside, str(programs / "tailscaled"), "--tun=userspace-networking", "--state=mem:", "--port=0",
                f"--statedir={state}", f"--socket={state}/socket", "--no-logs-no-support",
            ],
            state / "log",
            env=os.environ | {"TS_DEBUG_ALWAYS_USE_DERP": "true"},
        )  # fmt: skip
        wait_for(lambda: (state / "socket").exists(), f"{name} listens")
        wanted = {"ControlURL": control, "ControlURLSet": True, "WantRunning": True, "WantRunningSet": True}
        self._ask("PATCH", "prefs", wanted)
        self._ask("POST", "start", {"AuthKey": auth_key})
        self._ask("POST", "login-interactive")

    def _ask(self, method: str, path: str, body: object = None, timeout: float = 60) -> Any:
        """Ask the client's LocalAPI, as its command line does."""
        connection = http.client.HTTPConnection("local-tailscaled.sock")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(timeout)
        connection.sock.connect(str(self._socket))
        connection.request(method, f"/localapi/v0/{path}", None if body is None else json.dumps(body))
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        assert answer.status < 300, (path, answer.status, text)
        return json.loads(text) if text.startswith(b"{") else None

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self._ask("GET", "status")
        return found

    def derp_map(self) -> dict[str, Any]:
        """The map that its control server has told it."""
        found: dict[str, Any] = self._ask("GET", "derpmap")
        return found

    def command(self, *words: str) -> str:
        """What the command line prints to somebody who sits at this device: answers and warnings alike."""
        program = Path(os.environ["DERPMGMT_TEST_TAILSCALE"]) / "tailscale"
        command = [*self._inside, str(program), f"--socket={self._socket}", *words]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=True
        )
        return done.stdout

    @property
    def home(self) -> str:
        return str(self.status()["Self"]["Relay"])

    @property
    def address(self) -> str:
        return str(self.status()["Self"]["TailscaleIPs"][0])

    def answers(self, other: str) -> bool:
        """Whether the other end answers a packet through the tunnel within a second."""
        try:
            found = self._ask("POST", f"ping?ip={other}&type=TSMP", timeout=1.0)
        except OSError:
            return False
        return not found["Err"]

    def ping(self, other: str, times: int) -> int:
        """How many of so many pings were answered, one each second."""
        answered = 0
        for _ in range(times):
            began = time.monotonic()
            answered += self.answers(other)
            time.sleep(max(0.0, began + 1 - time.monotonic()))
        return answered
