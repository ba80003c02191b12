"""The conversation with a Docker Engine about a gate: nginx with its files in a volume, signals, and the Engine's own restart.

Part of ``conversation``, which says how it is recorded.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from containers.gate import GateSpec
from tests.sandbox.talk import LABELS, Talk, image_archive, tar_of

GATE_TAG = "derpmgmt/gate-conversation:1"
PROGRAM = "/usr/sbin/nginx"
KNOWN = "nodekey:" + "0a" * 32
SEEN = "State.Status State.ExitCode State.Error"
INSPECT = (
    "State.Status Config.StopSignal Config.Cmd Config.User HostConfig.Tmpfs HostConfig.RestartPolicy"
    " HostConfig.Binds HostConfig.PortBindings HostConfig.Mounts Mounts.0.Name Mounts.0.Destination Mounts.1"
    " NetworkSettings.Ports"
)


def gate_body(volume: str, **changes: Any) -> dict[str, Any]:
    """A hardened gate's create request; ``changes`` of its HostConfig, ``StopSignal`` of the container."""
    stop_signal = changes.pop("StopSignal", "SIGQUIT")
    return {
        "Image": GATE_TAG,
        "User": "65532:65532",
        "Cmd": [PROGRAM, "-c", "/gate/nginx.conf"],
        "Labels": LABELS,
        **({"StopSignal": stop_signal} if stop_signal else {}),
        "HostConfig": {
            "NetworkMode": "derpmgmt",
            "ReadonlyRootfs": True,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "Memory": 67108864,
            "PidsLimit": 64,
            "Binds": [f"{volume}:/gate"],
            "Tmpfs": {"/tmp": "size=4m,mode=0700,uid=65532,gid=65532"},
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "2"}},
            "RestartPolicy": {"Name": "always"},
            **changes,
        },
    }


def nginx_files(nginx: str) -> dict[str, bytes]:
    """An nginx of this machine and the libraries that it needs, as files of an image."""
    linked = subprocess.run(["ldd", nginx], check=True, capture_output=True, text=True).stdout.split()
    libraries = {path.lstrip("/"): Path(path).read_bytes() for path in linked if path.startswith("/")}
    return {PROGRAM.lstrip("/"): Path(nginx).read_bytes(), **libraries}


def talk_of_gates(
    talk: Talk, program: dict[str, bytes], panel_pem: bytes, pause: float, restart: Callable[[], object]
) -> None:
    """Hold this part of the conversation.

    ``program``: files of the image. ``panel_pem``: any certificate. ``restart``: ends the Engine in order and starts it again.
    """
    archive = image_archive(program, GATE_TAG, Entrypoint=None)
    spec = GateSpec("0123abcd", GATE_TAG, "conversation" * 3, "https://192.0.2.1", panel_pem.decode())
    files = {
        **{path.rpartition("/")[2]: content for path, content in spec.files.items()},
        "known.map": f'"/relay/17|{KNOWN}" 1;\n"~^/relay/18\\|" 1;\n'.encode(),
    }
    talk.ask("load a gate", "POST", "/images/load", archive, query={"quiet": "1"})
    _ask_creating(talk)
    _ask_life(talk, files, pause)
    _ask_failing(talk, files, pause)
    _ask_restart(talk, files, pause, restart)
    talk.ask("", "DELETE", f"/images/{GATE_TAG}")


def _ask_creating(talk: Talk) -> None:
    variants: dict[str, dict[str, Any]] = {
        "an unknown stop signal": {"StopSignal": "SHOUT"},
        "a stop signal's number": {"StopSignal": "3"},
        "a stop signal's short name": {"StopSignal": "quit"},
        "a relative tmpfs": {"Tmpfs": {"tmp": ""}},
        "a tmpfs for root": {"Tmpfs": {"/": ""}},
        "an unknown tmpfs option": {"Tmpfs": {"/tmp": "size=1m,colour=red"}},
        "a tmpfs on a volume": {"Tmpfs": {"/gate": ""}},
        "a tmpfs of a wrong type": {"Tmpfs": {"/tmp": 5}},
        "tmpfs as a list": {"Tmpfs": ["/tmp"]},
    }
    for name, changes in variants.items():
        body = gate_body("g1", **changes)
        path, query = "/containers/create", {"name": "gate"}
        if talk.ask(f"gate: create with {name}", "POST", path, body, query=query).status != 201:
            continue
        talk.ask(f"gate: start with {name}", "POST", "/containers/gate/start")
        # What the signals' gates do without files, may be any of several things by now.
        picked = "Config.StopSignal" if "signal" in name else "HostConfig.Tmpfs Mounts.1 " + SEEN
        talk.ask(f"gate: inspect with {name}", "GET", "/containers/gate/json", pick=picked)
        talk.ask("", "DELETE", "/containers/gate", query={"force": "1"})
    body = gate_body("g1")
    body["StopSignal"] = 3
    talk.ask("gate: stop signal of a wrong type", "POST", "/containers/create", body, query={"name": "gate"})


def _ask_life(talk: Talk, files: dict[str, bytes], pause: float) -> None:
    ask, gate = talk.ask, "/containers/gate"

    def signal(name: str, number: str, pick: str = SEEN) -> None:
        ask(f"gate: {name}", "POST", f"{gate}/kill", query={"signal": number})
        time.sleep(pause)
        ask(f"gate after {name}", "GET", f"{gate}/json", pick=pick)

    ask("gate: create", "POST", "/containers/create", gate_body("g1"), query={"name": "gate"})
    top = {"ps_args": "-o pid,args"}
    ask("gate: processes before its start", "GET", f"{gate}/top", query=top)
    ask("gate: inspect created", "GET", f"{gate}/json", pick=INSPECT)
    ask("gate: put", "PUT", f"{gate}/archive", tar_of(files), query={"path": "/gate"})
    ask("gate: put into the tmpfs", "PUT", f"{gate}/archive", tar_of({"x": b"x"}), query={"path": "/tmp"})
    ask("gate: start", "POST", f"{gate}/start")
    time.sleep(pause)
    ask("gate: inspect running", "GET", f"{gate}/json", pick=INSPECT)
    ask("gate: list", "GET", "/containers/json", pick="0.Names 0.Image 0.Command 0.Ports 0.State")
    ask("gate: get the list", "GET", f"{gate}/archive", query={"path": "/gate/known.map"})
    ask("gate: get what is not there", "GET", f"{gate}/archive", query={"path": "/gate/known.sha256"})
    ask(
        "gate: processes",
        "GET",
        f"{gate}/top",
        query=top,
        pick="Titles Processes.0.1 Processes.1.1 Processes.2",
    )
    signal("hang up", "HUP", SEEN + " RestartCount")
    ask(
        "gate: processes after",
        "GET",
        f"{gate}/top",
        query=top,
        pick="Processes.0.1 Processes.1.1 Processes.2",
    )
    ask(
        "gate: put a bad list", "PUT", f"{gate}/archive", tar_of({"known.map": b"x"}), query={"path": "/gate"}
    )
    signal("hang up with a bad list", "SIGHUP", SEEN + " RestartCount")
    ask("gate: put a list", "PUT", f"{gate}/archive", tar_of({"known.map": b""}), query={"path": "/gate"})
    signal("hang up with a list", "1", SEEN + " RestartCount")
    for name in ("USR1", "WINCH"):
        signal(name, name, SEEN + " RestartCount")
    ask("gate: logs", "GET", f"{gate}/logs", query={"stdout": "1", "stderr": "1"})
    # Not the stop signal: to the Engine a program that ends by it has ended by itself.
    signal("TERM", "TERM", SEEN + " RestartCount")
    signal("INT", "INT", SEEN + " RestartCount")
    signal("the stop signal", "QUIT")
    ask("gate: start again", "POST", f"{gate}/start")
    time.sleep(pause)
    ask("gate: stop", "POST", f"{gate}/stop", query={"t": "5"})
    ask("gate: inspect stopped", "GET", f"{gate}/json", pick=SEEN)
    ask("gate: start after stop", "POST", f"{gate}/start")
    time.sleep(pause)
    ask("", "POST", f"{gate}/stop", query={"t": "5"})
    ask("", "POST", f"{gate}/start")
    time.sleep(pause)
    ask("gate: inspect started again", "GET", f"{gate}/json", pick=SEEN + " RestartCount")
    signal("KILL", "KILL")
    _remove(talk, "gate", "g1")


def _ask_failing(talk: Talk, files: dict[str, bytes], pause: float) -> None:
    """What nginx logs and how it exits when its files are not as they should be."""
    ask, gate = talk.ask, "/containers/gate"

    def run(name: str, archive: bytes | None, command: list[str] | None = None) -> None:
        body = gate_body("g1", RestartPolicy={"Name": "no"})
        body["Cmd"] = command or body["Cmd"]
        ask("", "POST", "/containers/create", body, query={"name": "gate"})
        if archive is not None:
            ask("", "PUT", f"{gate}/archive", archive, query={"path": "/gate"})
        ask(f"gate with {name}: start", "POST", f"{gate}/start")
        talk.until_ended(gate)
        ask(f"gate with {name}: exit code", "GET", f"{gate}/json", pick="State.ExitCode")
        ask(f"gate with {name}: logs", "GET", f"{gate}/logs", query={"stdout": "1", "stderr": "1"})
        _remove(talk, "gate", "g1")

    conf = files["nginx.conf"].decode()
    run("no files", None)
    run("unreadable files", tar_of(files, uid=0))
    for name in ("known.map", "panel.pem"):
        run(f"no {name}", tar_of({key: value for key, value in files.items() if key != name}))
    for name, text in {
        "an empty file": "",
        "no directives": "daemon off;\n",
        "rubbish": "rubbish\n",
        "a lonely semicolon": ";\n",
        "a block too many": conf + "}\n",
        "a block that does not end": conf.rstrip().removesuffix("}"),
        "a quote that does not end": 'daemon off;\nuser "nobody;\n',
        "no space after a quote": 'daemon "off"x;\n',
        "no trusted certificate": conf.replace("proxy_ssl_trusted_certificate /gate/panel.pem;", ""),
    }.items():
        run(f"{name} in nginx.conf", tar_of({**files, "nginx.conf": text.encode()}))
    for name, text in {
        "a half line": f'"/relay/17|{KNOWN}"',
        "one word": "rubbish;\n",
        "three words": '"a" "b" 1;\n',
        "the same key twice": '"A" 1;\n# and\n"a" 1;\n',
        "a block": '"a" { }\n',
    }.items():
        run(f"{name} in the list", tar_of({**files, "known.map": text.encode()}))
    run("rubbish for a certificate", tar_of({**files, "panel.pem": b"rubbish"}))
    run("an unknown option", tar_of(files), [PROGRAM, "-x"])
    run("no file named", tar_of(files), [PROGRAM, "-c"])
    run("a word", tar_of(files), [PROGRAM, "hello"])
    run("its version asked for", tar_of(files), [PROGRAM, "-v"])
    run("a daemon", tar_of({**files, "nginx.conf": conf.replace("daemon off;", "").encode()}))


def _ask_restart(talk: Talk, files: dict[str, bytes], pause: float, restart: Callable[[], object]) -> None:
    """Which containers run again once the Engine has been restarted, after what, under which policy."""
    fates: dict[str, list[tuple[str, dict[str, str]]]] = {
        "created": [],
        "running": [("start", {})],
        "hung-up": [("start", {}), ("kill", {"signal": "HUP"})],
        "stopped": [("start", {}), ("stop", {"t": "5"})],
        "killed": [("start", {}), ("kill", {"signal": "KILL"})],
    }
    policies = {"no": {"Name": "no"}, "always": {"Name": "always"}, "unless": {"Name": "unless-stopped"}}
    names = [f"{policy}-{fate}" for policy in policies for fate in fates]
    for name in names:
        policy, _, fate = name.partition("-")
        body = gate_body(name, RestartPolicy=policies[policy])
        talk.ask("", "POST", "/containers/create", body, query={"name": name})
        talk.ask("", "PUT", f"/containers/{name}/archive", tar_of(files), query={"path": "/gate"})
        for verb, query in fates[fate]:
            talk.ask("", "POST", f"/containers/{name}/{verb}", query=query)
            time.sleep(pause)
    restart()
    time.sleep(pause)
    for name in names:
        talk.ask(
            f"after a restart: {name}", "GET", f"/containers/{name}/json", pick="State.Status RestartCount"
        )
        _remove(talk, name, name)


def _remove(talk: Talk, container: str, volume: str) -> None:
    talk.ask("", "DELETE", f"/containers/{container}", query={"force": "1", "v": "1"})
    talk.ask("", "DELETE", f"/volumes/{volume}")
