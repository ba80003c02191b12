"""One conversation with a Docker Engine: the same requests to a real one (recorded) and to the sandbox (compared).

What the real Engine answered is in ``engine_20_10.json``. To record it again, as root on a machine with a Docker Engine
that holds nothing worth keeping, and with a real ``derper``:

    python -m tests.sandbox.conversation /var/run/docker.sock PATH_TO_DERPER > tests/sandbox/engine_20_10.json

Only what is the same on every host is kept: ids, times and names that the Engine invents become placeholders.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from pathlib import Path
from typing import Any

from tests.sandbox.talk import ADDRESS, LABELS, TAG, Answer, Talk, create_body, image_archive, tar_of


def converse(talk: Talk, program: bytes, files: dict[str, bytes], *, pause: float = 1.0) -> None:
    """Hold the conversation.

    ``program``: the derper to put into the image. ``files``: a relay's certificate and keys. ``pause``: seconds until a
    program that was started or signalled has done what it does.
    """
    _ask_daemon(talk)
    _ask_images(talk, program)
    _ask_networks_and_volumes(talk)
    _ask_creating(talk)
    _ask_life(talk, files)
    _ask_changes_by_hand(talk)
    _ask_ports(talk, files)
    _ask_failing_programs(talk, files, pause)
    _ask_removal(talk)


def _ask_daemon(talk: Talk) -> None:
    ask = talk.ask
    ask("ping", "GET", "/v1.41/_ping")
    ask("version", "GET", "/version", pick="ApiVersion MinAPIVersion Os")
    ask("version too new", "GET", "/v1.99/version")
    ask("version too old", "GET", "/v1.2/version")
    ask("unknown page", "GET", "/nonsense")
    ask("unknown method", "PUT", "/version")
    ask(
        "info",
        "GET",
        "/info",
        pick="Containers ContainersRunning ContainersStopped Images OSType DefaultRuntime LoggingDriver",
    )


def _ask_images(talk: Talk, program: bytes) -> None:
    ask = talk.ask
    ask("inspect missing image", "GET", f"/images/{TAG}/json")
    ask("delete missing image", "DELETE", f"/images/{TAG}")
    ask("load rubbish", "POST", "/images/load", b"this is no archive")
    ask("load without manifest", "POST", "/images/load", tar_of({"x": b"x"}))
    ask("load quietly", "POST", "/images/load", image_archive(program), query={"quiet": "1"})
    ask("load again", "POST", "/images/load", image_archive(program), query={"quiet": "0"})
    ask("load another", "POST", "/images/load", image_archive(program, "derpmgmt/other:1", Labels={"a": "b"}))
    picked = "RepoTags RepoDigests Os Architecture Created Config.Entrypoint Config.User Config.Labels Config.Cmd RootFS.Type"
    image = ask("inspect image", "GET", f"/images/{TAG}/json", pick=picked).json
    ask("inspect image by id", "GET", f"/images/{image['Id']}/json", pick="RepoTags")
    ask("inspect image by bare id", "GET", f"/images/{image['Id'][7:]}/json", pick="RepoTags")
    ask("inspect image by short id", "GET", f"/images/{image['Id'][7:19]}/json", pick="RepoTags")
    ask("inspect image without tag", "GET", "/images/derpmgmt/conversation/json")
    picked = "0.RepoTags 0.RepoDigests 0.Labels 0.Containers 0.ParentId 0.Created 0.SharedSize"
    ask(
        "list images by label",
        "GET",
        "/images/json",
        query={"filters": '{"label":["derpmgmt.content=abc"]}'},
        pick=picked,
    )
    ask(
        "list images by name",
        "GET",
        "/images/json",
        query={"filters": '{"reference":["derpmgmt/other"]}'},
        pick="0.RepoTags",
    )
    ask("list no images", "GET", "/images/json", query={"filters": '{"label":["no=such"]}'})
    ask("list images bad filter", "GET", "/images/json", query={"filters": '{"colour":["red"]}'})
    ask("list images broken filter", "GET", "/images/json", query={"filters": "{"})
    ask("delete image", "DELETE", "/images/derpmgmt/other:1")


def _ask_networks_and_volumes(talk: Talk) -> None:
    ask = talk.ask
    ask("inspect missing network", "GET", "/networks/derpmgmt")
    body = {"Name": "derpmgmt", "CheckDuplicate": True, "Driver": "bridge", "Labels": LABELS}
    ask("create network", "POST", "/networks/create", body)
    ask("create network again", "POST", "/networks/create", body)
    ask("create network bad driver", "POST", "/networks/create", {"Name": "x", "Driver": "warp"})
    ask(
        "inspect network",
        "GET",
        "/networks/derpmgmt",
        pick="Name Driver Scope Labels Containers Internal Options",
    )
    ask(
        "list networks",
        "GET",
        "/networks",
        query={"filters": '{"name":["derpmgmt"]}'},
        pick="0.Name 0.Labels",
    )
    ask("list no networks", "GET", "/networks", query={"filters": '{"name":["no-such"]}'})
    ask("inspect missing volume", "GET", "/volumes/v1")
    ask(
        "create volume",
        "POST",
        "/volumes/create",
        {"Name": "v1", "Labels": LABELS},
        pick="Name Driver Labels Options Scope",
    )
    ask(
        "create volume again",
        "POST",
        "/volumes/create",
        {"Name": "v1"},
        pick="Name Driver Labels Options Scope",
    )
    ask("create volume bad name", "POST", "/volumes/create", {"Name": "a/b"})
    ask("inspect volume", "GET", "/volumes/v1", pick="Name Driver Labels Options Scope")
    ask(
        "list volumes",
        "GET",
        "/volumes",
        query={"filters": '{"label":["derpmgmt.panel=conversation"]}'},
        pick="Warnings Volumes.0.Name",
    )
    ask("list no volumes", "GET", "/volumes", query={"filters": '{"name":["no-such"]}'})
    ask("delete missing volume", "DELETE", "/volumes/no-such")


def _ask_creating(talk: Talk) -> None:
    ask = talk.ask

    def create(question: str, body: Any, **query: str) -> Answer:
        answer = ask(question, "POST", "/containers/create", body, query=query or None)
        if answer.status == 201:
            ask("", "DELETE", f"/containers/{answer.json['Id']}", query={"v": "1", "force": "1"})
        return answer

    good = create_body(talk.address, 20001, 20002, "v1")
    create("create", good, name="good")
    create("create without name", good)
    create("create with bad name", good, name="no/slash")
    create("create with short name", good, name="x")
    create("create from missing image", {**good, "Image": "derpmgmt/none:1"}, name="cc")
    create("create from missing latest", {**good, "Image": "none"}, name="cc")
    create("create without image", {**good, "Image": ""}, name="cc")
    create("create without body", None, name="cc")
    ask("create from broken JSON", "POST", "/containers/create", b"{", content_type="application/json")
    ask("create from no JSON", "POST", "/containers/create", b"", content_type="application/json")
    ask("create of another type", "POST", "/containers/create", good, content_type="text/plain")
    variants: dict[str, dict[str, Any]] = {
        "little memory": {"Memory": 1024},
        "unknown capability": {"CapDrop": ["FLYING"]},
        "unknown added capability": {"CapAdd": ["FLYING"]},
        "unknown security option": {"SecurityOpt": ["flying"]},
        "unknown restart policy": {"RestartPolicy": {"Name": "sometimes"}},
        "retries of always": {"RestartPolicy": {"Name": "always", "MaximumRetryCount": 3}},
        "removal and restart": {"AutoRemove": True},
        "unknown log driver": {"LogConfig": {"Type": "paper"}},
        "unknown log option": {"LogConfig": {"Type": "json-file", "Config": {"colour": "red"}}},
        "bad host port": {"PortBindings": {"20001/tcp": [{"HostIp": "", "HostPort": "ninety"}]}},
        "host port out of range": {"PortBindings": {"20001/tcp": [{"HostIp": "", "HostPort": "99999"}]}},
        "bad container port": {"PortBindings": {"http/tcp": [{"HostIp": "", "HostPort": "20001"}]}},
        "negative pids": {"PidsLimit": -5},
        "relative mount point": {"Binds": ["v1:data"]},
        "root mount point": {"Binds": ["v1:/"]},
        "bad bind mode": {"Binds": ["v1:/data:shiny"]},
        "bad volume name": {"Binds": ["a b:/data"]},
        "same mount point twice": {"Binds": ["v1:/data", "v2:/data"]},
        "mount": {"Binds": [], "Mounts": [{"Type": "volume", "Source": "v1", "Target": "/data"}]},
        "mount without target": {"Binds": [], "Mounts": [{"Type": "volume", "Source": "v1"}]},
        "mount of bad type": {"Binds": [], "Mounts": [{"Type": "cloud", "Source": "v1", "Target": "/data"}]},
        "tmpfs": {"Tmpfs": {"/tmp": "size=1m"}},
    }
    for name, host in variants.items():
        create(f"create with {name}", {**good, "HostConfig": {**good["HostConfig"], **host}}, name="cc")
    for field, value in {
        "Cmd": 5,
        "User": 5,
        "Image": [],
        "Labels": "x",
        "ExposedPorts": "x",
        "HostConfig": "x",
    }.items():
        create(f"create with wrong type of {field}", {**good, field: value}, name="cc")
    for field, value in {
        "Memory": "x",
        "PidsLimit": "x",
        "ReadonlyRootfs": "x",
        "CapDrop": 5,
        "Binds": "x",
        "Mounts": "x",
    }.items():
        host = {**good["HostConfig"], field: value}
        create(f"create with wrong type of {field}", {**good, "HostConfig": host}, name="cc")
    create("create with unknown field", {**good, "Colour": "red"}, name="cc")


STATE = "State.Status State.Running State.Paused State.Restarting State.OOMKilled State.Dead State.ExitCode State.Error"
INSPECT = STATE + (
    " Name RestartCount Path Args Image Driver Platform Config.User Config.Image Config.Labels Config.Cmd Config.Entrypoint"
    " Config.ExposedPorts Config.Volumes Config.WorkingDir Config.AttachStdin Config.Tty Config.StopSignal"
    " HostConfig.Binds HostConfig.NetworkMode HostConfig.PortBindings HostConfig.RestartPolicy HostConfig.ReadonlyRootfs"
    " HostConfig.CapDrop HostConfig.CapAdd HostConfig.SecurityOpt HostConfig.Memory HostConfig.MemorySwap HostConfig.PidsLimit"
    " HostConfig.LogConfig HostConfig.Mounts HostConfig.Privileged HostConfig.AutoRemove HostConfig.Tmpfs"
    " HostConfig.Ulimits HostConfig.NanoCpus HostConfig.PidMode HostConfig.IpcMode HostConfig.ShmSize"
    " HostConfig.PublishAllPorts HostConfig.Init HostConfig.OomKillDisable HostConfig.MaskedPaths"
    " Mounts.0.Type Mounts.0.Name Mounts.0.Destination Mounts.0.Driver Mounts.0.Mode Mounts.0.RW Mounts.0.Propagation"
    " NetworkSettings.Ports NetworkSettings.Networks.derpmgmt.NetworkID NetworkSettings.Networks.derpmgmt.Aliases"
)
LISTED = (
    "0.Names 0.Image 0.ImageID 0.Command 0.Labels 0.State 0.HostConfig 0.SizeRw 0.Mounts.0.Type 0.Mounts.0.Name"
    " 0.Mounts.0.Destination 0.NetworkSettings.Networks.derpmgmt.NetworkID"
)
OURS = '{"label":["derpmgmt.panel=conversation"]}'


def _ask_life(talk: Talk, files: dict[str, bytes]) -> None:
    ask = talk.ask
    one = "/containers/one"
    for verb in ("start", "stop", "kill", "restart", "wait"):
        ask(f"{verb} unknown", "POST", f"{one}/{verb}")
    ask("remove unknown", "DELETE", one)
    ask("inspect unknown", "GET", f"{one}/json")
    ask("logs of unknown", "GET", f"{one}/logs", query={"stdout": "1"})
    ask("put into unknown", "PUT", f"{one}/archive", tar_of({"x": b"x"}), query={"path": "/data"})
    ask(
        "", "POST", "/containers/create", create_body(talk.address, 20001, 20002, "v1"), query={"name": "one"}
    )
    ask(
        "name taken",
        "POST",
        "/containers/create",
        create_body(talk.address, 20003, 20004, "v1"),
        query={"name": "one"},
    )
    ask("inspect created", "GET", f"{one}/json", pick=INSPECT)
    ask("list only running", "GET", "/containers/json", query={"filters": OURS})
    ask(
        "list created",
        "GET",
        "/containers/json",
        query={"filters": OURS, "all": "1"},
        pick=LISTED + " 0.Status 0.Ports",
    )
    ask("put into read-only root", "PUT", f"{one}/archive", tar_of({"x": b"x"}), query={"path": "/"})
    ask("put into missing folder", "PUT", f"{one}/archive", tar_of({"x": b"x"}), query={"path": "/nowhere"})
    ask("put into a file", "PUT", f"{one}/archive", tar_of({"x": b"x"}), query={"path": "/derper"})
    ask("put without path", "PUT", f"{one}/archive", tar_of({"x": b"x"}))
    ask("put rubbish", "PUT", f"{one}/archive", b"this is no archive", query={"path": "/data"})
    ask(
        "put into missing folder of the volume",
        "PUT",
        f"{one}/archive",
        tar_of({"x": b"x"}),
        query={"path": "/data/sub"},
    )
    ask("put out of the volume", "PUT", f"{one}/archive", tar_of({"../../x": b"x"}), query={"path": "/data"})
    ask("put into the volume", "PUT", f"{one}/archive", tar_of(files), query={"path": "/data"})
    ask("get a file", "GET", f"{one}/archive", query={"path": "/data/derper.key"})
    ask("get a missing file", "GET", f"{one}/archive", query={"path": "/data/none"})
    ask("stop created", "POST", f"{one}/stop")
    ask("kill created", "POST", f"{one}/kill")
    ask("logs of created", "GET", f"{one}/logs", query={"stdout": "1", "stderr": "1"})
    ask("logs of no stream", "GET", f"{one}/logs")
    ask("start", "POST", f"{one}/start")
    ask("start again", "POST", f"{one}/start")
    ask("inspect running", "GET", f"{one}/json", pick=INSPECT)
    ask("list running", "GET", "/containers/json", query={"filters": OURS}, pick=LISTED + " 0.Ports")
    ask("list by name", "GET", "/containers/json", query={"filters": '{"name":["on"]}'}, pick="0.Names")
    ask("list by state", "GET", "/containers/json", query={"filters": '{"status":["exited"]}'})
    ask("list by unknown state", "GET", "/containers/json", query={"filters": '{"status":["flying"]}'})
    ask("list by unknown filter", "GET", "/containers/json", query={"filters": '{"colour":["red"]}'})
    ask("put while running", "PUT", f"{one}/archive", tar_of({"more": b"x"}), query={"path": "/data"})
    ask("put into root while running", "PUT", f"{one}/archive", tar_of({"x": b"x"}), query={"path": "/"})
    ask("unknown signal", "POST", f"{one}/kill", query={"signal": "SHOUT"})
    ask("remove running", "DELETE", one)
    ask("delete volume in use", "DELETE", "/volumes/v1")
    ask("delete image in use", "DELETE", f"/images/{TAG}")
    ask("delete network in use", "DELETE", "/networks/derpmgmt")
    ask("restart", "POST", f"{one}/restart", query={"t": "2"})
    ask("stop", "POST", f"{one}/stop", query={"t": "2"})
    ask("stop again", "POST", f"{one}/stop")
    ask("kill stopped", "POST", f"{one}/kill")
    ask("wait for stopped", "POST", f"{one}/wait")
    ask("inspect stopped", "GET", f"{one}/json", pick=STATE + " RestartCount NetworkSettings.Ports")
    ask("start after stop", "POST", f"{one}/start")
    ask("kill", "POST", f"{one}/kill")
    ask("wait for killed", "POST", f"{one}/wait")
    ask("inspect killed", "GET", f"{one}/json", pick=STATE)
    ask("start after kill", "POST", f"{one}/start")
    answer = ask("create exec", "POST", f"{one}/exec", {"Cmd": ["/derper", "-version"], "AttachStdout": True})
    if answer.status != 201:
        raise SystemExit(answer.body)
    made = answer.json
    ask("start exec", "POST", f"/exec/{made['Id']}/start", {"Detach": False, "Tty": False})
    ask("inspect exec", "GET", f"/exec/{made['Id']}/json", pick="ExitCode Running")
    made = ask(
        "create exec of missing program", "POST", f"{one}/exec", {"Cmd": ["true"], "AttachStdout": True}
    ).json
    ask("start exec of missing program", "POST", f"/exec/{made['Id']}/start", {"Detach": False, "Tty": False})
    ask("inspect exec of missing program", "GET", f"/exec/{made['Id']}/json", pick="ExitCode Running")
    ask("exec without command", "POST", f"{one}/exec", {"Cmd": []})
    ask("start unknown exec", "POST", "/exec/nonsense/start", {})
    ask("", "POST", f"{one}/stop", query={"t": "2"})
    ask("exec in stopped", "POST", f"{one}/exec", {"Cmd": ["true"]})


def _ask_changes_by_hand(talk: Talk) -> None:
    ask = talk.ask
    one, picked = (
        "/containers/one",
        "HostConfig.Memory HostConfig.MemorySwap HostConfig.PidsLimit HostConfig.RestartPolicy",
    )
    ask("start before changes", "POST", f"{one}/start")
    ask(
        "",
        "POST",
        "/containers/create",
        create_body(talk.address, 20041, 20042, "v1"),
        query={"name": "other"},
    )
    ask("rename unknown", "POST", "/containers/none/rename", query={"name": "uno"})
    ask("rename to a taken name", "POST", f"{one}/rename", query={"name": "other"})
    ask("rename badly", "POST", f"{one}/rename", query={"name": "a/b"})
    ask("rename to itself", "POST", f"{one}/rename", query={"name": "one"})
    ask("rename", "POST", f"{one}/rename", query={"name": "uno"})
    ask("inspect by old name", "GET", f"{one}/json")
    ask("rename back", "POST", "/containers/uno/rename", query={"name": "one"})
    ask("", "DELETE", "/containers/other")
    ask(
        "update",
        "POST",
        f"{one}/update",
        {"Memory": 134217728, "PidsLimit": 50, "RestartPolicy": {"Name": "always"}},
    )
    ask("inspect updated", "GET", f"{one}/json", pick=picked)
    ask("update badly", "POST", f"{one}/update", {"RestartPolicy": {"Name": "sometimes"}})
    ask("disconnect", "POST", "/networks/derpmgmt/disconnect", {"Container": "one", "Force": True})
    ask("inspect disconnected", "GET", f"{one}/json", pick="NetworkSettings.Networks NetworkSettings.Ports")
    ask("disconnect again", "POST", "/networks/derpmgmt/disconnect", {"Container": "one"})
    ask("connect", "POST", "/networks/derpmgmt/connect", {"Container": "one"})
    ask("connect again", "POST", "/networks/derpmgmt/connect", {"Container": "one"})
    ask("inspect connected", "GET", f"{one}/json", pick="NetworkSettings.Ports HostConfig.NetworkMode")
    ask("stop after changes", "POST", f"{one}/stop")


def _ask_ports(talk: Talk, files: dict[str, bytes]) -> None:
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


def _ask_failing_programs(talk: Talk, files: dict[str, bytes], pause: float) -> None:
    """Programs that end by themselves: what they log, how they exit, and how the Engine starts them again."""

    ask = talk.ask

    def run(name: str, files: bytes | None, **changes: Any) -> None:
        body = {**create_body(talk.address, 20031, 20032, "v3", RestartPolicy={"Name": "no"}), **changes}
        ask("", "POST", "/containers/create", body, query={"name": "three"})
        if files is not None:
            ask("", "PUT", "/containers/three/archive", files, query={"path": "/data"})
        ask(f"{name}: start", "POST", "/containers/three/start")
        ask(f"{name}: wait", "POST", "/containers/three/wait")
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
    ask("exec in what is restarting", "POST", "/containers/three/exec", {"Cmd": ["true"]})
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
            ask(f"signal {signal}: wait", "POST", "/containers/three/wait")
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


def _ask_removal(talk: Talk) -> None:
    ask = talk.ask
    ask("stop before removal", "POST", "/containers/one/stop", query={"t": "2"})
    ask("remove", "DELETE", "/containers/one", query={"v": "1"})
    ask("remove again", "DELETE", "/containers/one")
    ask("inspect named volume after removal", "GET", "/volumes/v1", pick="Name")
    ask("delete volume", "DELETE", "/volumes/v1")
    ask("", "DELETE", "/volumes/v2")
    ask("delete network", "DELETE", "/networks/derpmgmt")
    ask("delete missing network", "DELETE", "/networks/derpmgmt")
    ask("delete last tag", "DELETE", f"/images/{TAG}")


def _record(docker_socket: str, derper: str) -> dict[str, Any]:
    from tests.sandbox.parts import relay_files  # needs the libraries of the project; the rest does not

    def connect() -> socket.socket:
        channel = socket.socket(socket.AF_UNIX)
        channel.connect(docker_socket)
        return channel

    talk = Talk(connect)
    converse(talk, Path(derper).read_bytes(), relay_files(ADDRESS))
    return talk.record


if __name__ == "__main__":
    json.dump(_record(sys.argv[1], sys.argv[2]), sys.stdout, indent=1, ensure_ascii=False)
