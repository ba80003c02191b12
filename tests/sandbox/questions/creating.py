"""Create requests: good ones, and all that is wrong with others."""

from __future__ import annotations

from typing import Any

from tests.sandbox.talk import Answer, Talk, create_body


def ask_creating(talk: Talk) -> None:
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
