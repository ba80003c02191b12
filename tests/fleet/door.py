"""An SSH server's door, with all that real ones may do at a sign-in: paramiko's server on loopback. Nobody comes further than in."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import asyncssh
import paramiko
from paramiko.common import (
    AUTH_FAILED,
    AUTH_PARTIALLY_SUCCESSFUL,
    AUTH_SUCCESSFUL,
    cMSG_DISCONNECT,
    cMSG_USERAUTH_BANNER,
    cMSG_USERAUTH_INFO_REQUEST,
)

from fleet.ssh import Endpoint

Round = tuple[str, list[tuple[str, bool]]]
ASK: Round = ("", [("Password: ", False)])


@dataclass
class Door:
    """What it wants, in lists of methods one after the other, and what it says.

    `rounds` are the pieces of a keyboard-interactive dialogue: instruction and (question, is shown); the first answer is the
    password, and an answer that is wrong ends the dialogue. `most_tries` is OpenSSH's MaxAuthTries. `at_success` is said when
    all is right and the connection ended, as for an account that PAM refuses. With `wants_change` a right password has to be changed.
    """

    steps: tuple[str, ...] = ("publickey,password",)
    password: str = "correct horse battery"
    takes_key: bool = True
    rounds: list[Round] = field(default_factory=lambda: [ASK])
    most_tries: int = 6
    banner: str = ""
    at_success: str | None = None
    wants_change: bool = False
    port: int = 0
    answers: list[list[str]] = field(default_factory=list)
    tries: list[str] = field(default_factory=list)
    host_key: paramiko.PKey = field(default_factory=lambda: paramiko.ECDSAKey.generate(bits=256))
    client_key: str = field(
        default_factory=lambda: asyncssh.generate_private_key("ssh-ed25519").export_private_key().decode()
    )

    def endpoint(self, *, key: bool = False, password: str = "") -> Endpoint:
        line = f"{self.host_key.get_name()} {self.host_key.get_base64()}"
        return Endpoint("127.0.0.1", self.port, "root", line, self.client_key if key else "", password)


class _Guest(paramiko.ServerInterface):
    """One connection."""

    def __init__(self, door: Door, transport: paramiko.Transport) -> None:
        self.door, self.transport = door, transport
        self.step = self.failures = 0
        self.rounds: list[Round] = []

    def get_banner(self) -> tuple[str | None, str | None]:
        return self.door.banner or None, "en"

    def get_allowed_auths(self, username: str) -> str:
        return self.door.steps[min(self.step, len(self.door.steps) - 1)]

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        return self.judge("publickey", is_right=self.door.takes_key)

    def check_auth_password(self, username: str, password: str) -> int:
        is_right = password == self.door.password
        if is_right and self.door.wants_change:
            self.send(cMSG_USERAUTH_INFO_REQUEST, "Choose a new password.", "en")
            threading.Event().wait(0.5)
        return self.judge("password", is_right=is_right)

    def check_auth_interactive(self, username: str, submethods: str) -> int | paramiko.InteractiveQuery:
        self.door.tries.append("dialogue")
        self.rounds = list(self.door.rounds)
        return self.next_round()

    def check_auth_interactive_response(self, responses: list[str]) -> int | paramiko.InteractiveQuery:
        if responses:
            self.door.answers.append(responses)
        if responses and responses != [self.door.password]:
            return self.judge("keyboard-interactive", is_right=False)
        return self.next_round()

    def next_round(self) -> int | paramiko.InteractiveQuery:
        if not self.rounds:
            return self.judge("keyboard-interactive", is_right=True)
        instruction, prompts = self.rounds.pop(0)
        return paramiko.InteractiveQuery("", instruction, *prompts)

    def judge(self, method: str, *, is_right: bool) -> int:
        self.door.tries.append(method)
        if method not in self.get_allowed_auths(""):
            is_right = False
        if not is_right:
            self.failures += 1
            if self.failures >= self.door.most_tries:
                self.send(cMSG_DISCONNECT, 2, "Too many authentication failures", "en")
                self.transport.close()
            return AUTH_FAILED
        self.step += 1
        if self.step < len(self.door.steps):
            return AUTH_PARTIALLY_SUCCESSFUL
        if self.door.at_success is not None:
            if self.door.at_success:
                self.send(cMSG_USERAUTH_BANNER, self.door.at_success, "en")
            self.transport.close()
        return AUTH_SUCCESSFUL

    def send(self, number: bytes, *fields: str | int) -> None:
        message = paramiko.Message()
        message.add_byte(number)
        for value in fields:
            if isinstance(value, int):
                message.add_int(value)
            else:
                message.add_string(value)
        self.transport._send_message(message)  # type: ignore[attr-defined]


@contextmanager
def open_door(door: Door) -> Iterator[Door]:
    """The door is open inside."""
    transports: list[paramiko.Transport] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        door.port = server.getsockname()[1]

        def serve() -> None:
            with suppress(OSError):
                while True:
                    client, _address = server.accept()
                    transport = paramiko.Transport(client)
                    transports.append(transport)
                    transport.add_server_key(door.host_key)
                    with suppress(paramiko.SSHException, EOFError):
                        transport.start_server(server=_Guest(door, transport), event=threading.Event())

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield door
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(10)
            for transport in transports:
                transport.close()
