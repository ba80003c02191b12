"""Starts that fail, and programs that end by themselves."""

from __future__ import annotations

import socket
import time
from typing import Any

from tests.sandbox.questions.life import OURS, STATE
from tests.sandbox.talk import Talk, create_body, tar_of


def ask_ports(talk: Talk, files: dict[str, bytes]) -> None:
    ask = talk.ask

    def attempt(name: str, body: dict[str, Any]) -> None:
        ask("", "POST", "/containers/create", body, query={"name": "two"})
        ask("", "PUT", "/containers/two/archive", tar_of(files), query={"path": "/data"})
        ask(name, "POST", "/containers/two/start")
        ask(f"{name}: inspect", "GET", "/containers/two/json", pick=STATE + " NetworkSettings.Ports")
        ask("", "DELETE", "/containers/two", query={"force": "1", "v": "1"})

    ask("", "POST", "/containers/one/start")
    attempt("start on a container's TCP port", create_body(talk.address, 20001, 20012, "v2"))
    attempt("start on a container's UDP port", create_body(talk.address, 20011, 20002, "v2"))
    with socket.create_server((talk.address, 20021)):
        attempt("start on a foreign TCP port", create_body(talk.address, 20021, 20022, "v2"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as foreign:
        foreign.bind((talk.address, 20022))
        attempt("start on a foreign UDP port", create_body(talk.address, 20021, 20022, "v2"))
    body = create_body(talk.address, 20021, 20022, "v2")
    body["HostConfig"]["PortBindings"]["20021/tcp"][0]["HostIp"] = "192.0.2.77"
    attempt("start on a foreign address", body)
    attempt(
        "start on a missing network", create_body(talk.address, 20021, 20022, "v2", NetworkMode="no-such")
    )
    attempt("start as unknown user", {**create_body(talk.address, 20021, 20022, "v2"), "User": "nobody-here"})
    attempt(
        "start of a missing program",
        {**create_body(talk.address, 20021, 20022, "v2"), "Entrypoint": ["/no-such"]},
    )
    attempt("start again on freed ports", create_body(talk.address, 20021, 20022, "v2"))


def ask_failing_programs(talk: Talk, files: dict[str, bytes], pause: float) -> None:
    """Programs that end by themselves: what they log, how they exit, and how the Engine starts them again."""

    ask = talk.ask

    def run(name: str, files: bytes | None, **changes: Any) -> None:
        body = {**create_body(talk.address, 20031, 20032, "v3", RestartPolicy={"Name": "no"}), **changes}
        ask("", "POST", "/containers/create", body, query={"name": "three"})
        if files is not None:
            ask("", "PUT", "/containers/three/archive", files, query={"path": "/data"})
        ask(f"{name}: start", "POST", "/containers/three/start")
        talk.until_ended("/containers/three")
        ask(f"{name}: inspect", "GET", "/containers/three/json", pick=STATE)
        ask(f"{name}: logs", "GET", "/containers/three/logs", query={"stdout": "1", "stderr": "1"})
        ask("", "DELETE", "/containers/three", query={"force": "1", "v": "1"})
        ask("", "DELETE", "/volumes/v3")

    def without(name: str) -> bytes:
        return tar_of({key: value for key, value in files.items() if key != name})

    certificate, key = f"{talk.address}.crt", f"{talk.address}.key"
    run("no files", None)
    run("no key file", without("derper.key"))
    run("no certificate", without(certificate))
    run("no certificate's key", without(key))
    run("unreadable files", tar_of(files, uid=0))
    run("broken certificate", tar_of({**files, certificate: b"rubbish"}))
    run("broken key", tar_of({**files, "derper.key": b"rubbish"}))
    run("short key", tar_of({**files, "derper.key": b'{"PrivateKey": "privkey:abcd"}'}))
    run("other kind of key", tar_of({**files, "derper.key": b'{"PrivateKey": "nodekey:abcd"}'}))
    command = create_body(talk.address, 20031, 20032, "v3")["Cmd"]
    run("unknown flag", tar_of(files), Cmd=["-nonsense=1"])
    run("bad number", tar_of(files), Cmd=["-stun-port", "x"])
    run("bad address", tar_of(files), Cmd=[*command, "-a", "443"])
    run("other host name", tar_of(files), Cmd=[*command, "-hostname", "127.77.0.9"])
    run("missing mesh key", tar_of(files), Cmd=[*command, "-mesh-psk-file", "/data/mesh"])
    run("bad mesh key", tar_of({**files, "mesh": b"rubbish"}), Cmd=[*command, "-mesh-psk-file", "/data/mesh"])

    ask(
        "",
        "POST",
        "/containers/create",
        create_body(talk.address, 20031, 20032, "v3"),
        query={"name": "three"},
    )
    ask("start of what fails", "POST", "/containers/three/start")
    # After some failures the pauses before each new start are long enough to look at it.
    while (
        not (seen := ask("", "GET", "/containers/three/json").json)["State"]["Restarting"]
        or seen["RestartCount"] < 4
    ):
        time.sleep(0.05)
    ask("what fails is restarting", "GET", "/containers/three/json", pick=STATE.replace("Error", "Pid"))
    ask("list what is restarting", "GET", "/containers/json", query={"filters": OURS}, pick="0.State 0.Ports")
    ask("remove what is restarting", "DELETE", "/containers/three")
    ask("put while restarting", "PUT", "/containers/three/archive", tar_of(files), query={"path": "/data"})
    ask("start what is restarting", "POST", "/containers/three/start")
    ask("stop what is restarting", "POST", "/containers/three/stop")
    ask("what was restarting is stopped", "GET", "/containers/three/json", pick=STATE)
    ask("", "DELETE", "/containers/three", query={"force": "1", "v": "1"})
    ask("", "DELETE", "/volumes/v3")

    body = create_body(talk.address, 20031, 20032, "v3", RestartPolicy={"Name": "no"})
    ask("", "POST", "/containers/create", body, query={"name": "three"})
    ask("", "PUT", "/containers/three/archive", tar_of(files), query={"path": "/data"})
    for signal in ("HUP", "SIGTERM", "15", "INT", "USR1", "9"):
        ask("", "POST", "/containers/three/start")
        time.sleep(pause)  # until it handles signals
        ask(f"signal {signal}", "POST", "/containers/three/kill", query={"signal": signal})
        if signal != "USR1":
            talk.until_ended("/containers/three")
            ask(f"signal {signal}: exit code", "GET", "/containers/three/json", pick="State.ExitCode")
    ask("", "DELETE", "/containers/three", query={"force": "1", "v": "1"})
    ask("", "DELETE", "/volumes/v3")

    # A signal sent through the Engine ends the restart policy until the next start, unless another stop signal is declared.
    for name, changes in {"without stop signal": {}, "with stop signal": {"StopSignal": "SIGTERM"}}.items():
        body = {**create_body(talk.address, 20031, 20032, "v3"), **changes}
        ask("", "POST", "/containers/create", body, query={"name": "three"})
        ask("", "PUT", "/containers/three/archive", tar_of(files), query={"path": "/data"})
        ask("", "POST", "/containers/three/start")
        time.sleep(pause)
        ask("", "POST", "/containers/three/kill", query={"signal": "HUP"})
        time.sleep(2 * pause)
        ask(f"hang up {name}", "GET", "/containers/three/json", pick=STATE + " RestartCount")
        ask("", "DELETE", "/containers/three", query={"force": "1", "v": "1"})
        ask("", "DELETE", "/volumes/v3")
