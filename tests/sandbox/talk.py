"""Asking a Docker Engine by raw HTTP, and keeping of its answers what is the same on every host."""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import re
import tarfile
import time
import urllib.parse
from collections.abc import Callable
from typing import Any

ADDRESS = "127.77.0.1"
TAG = "derpmgmt/conversation:1"
LABELS = {"derpmgmt.panel": "conversation", "derpmgmt.kind": "relay"}
_VOLATILE = [
    (re.compile(r"[0-9a-f]{64}"), "<id>"),
    (re.compile(r"\b[0-9a-f]{12}\b"), "<short id>"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)"), "<time>"),
    (re.compile(r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d"), "<log time>"),
    (re.compile(r"/[\w/.-]*/tmp/docker-import-\d+"), "<work folder>"),
    (re.compile(r"\] \d+#\d+: "), "] <process>: "),
    (re.compile(r"(nginx\.conf):\d+"), r"\1:<line>"),
    (re.compile(r"\.tmp\d+"), "<temporary>"),
]


class Answer:
    """One HTTP answer of an Engine."""

    def __init__(self, path: str, status: int, headers: dict[str, str], body: bytes) -> None:
        self.path = path
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Talk:
    """Asks the Engine of the host with this address, and keeps what it answered, by the name of the question."""

    def __init__(self, connect: Callable[[], Any], address: str = ADDRESS) -> None:
        self._connect = connect
        self.address = address
        self.record: dict[str, Any] = {}

    def ask(
        self,
        name: str,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: dict[str, Any] | None = None,
        pick: str | None = None,
        content_type: str | None = None,
    ) -> Answer:
        """Send one request; keep status and body under ``name``.

        ``body``: bytes go out as they are, anything else as JSON. ``pick``: dotted fields to keep of a JSON answer, separated
        by spaces; without it the whole body is kept.
        """
        connection = http.client.HTTPConnection("docker")
        connection.sock = self._connect()
        if query:
            path += "?" + urllib.parse.urlencode(query)
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        headers = {}
        if data is not None:
            headers["Content-Type"] = content_type or (
                "application/x-tar" if isinstance(body, bytes) else "application/json"
            )
        connection.request(method, "/v1.41" + path if not path.startswith("/v") else path, data, headers)
        response = connection.getresponse()
        answer = Answer(path, response.status, dict(response.getheaders()), response.read())
        connection.close()
        if name:
            kept = json.dumps({"status": answer.status, "body": _kept(answer, pick)})
            self.record[name] = json.loads(kept.replace(self.address, "<address>"))
        return answer

    def until_ended(self, container: str) -> None:
        """Wait until the program of a container (its path) has ended by itself."""
        while self.ask("", "GET", f"{container}/json").json["State"]["Running"]:
            time.sleep(0.05)


def _kept(answer: Answer, pick: str | None) -> Any:
    if answer.headers.get("Content-Type", "").startswith("application/json"):
        try:
            value = answer.json
        except ValueError:
            return _stable(answer.body.decode())
        if pick is not None and answer.status < 300:
            return {field: _stable(_in_order(_field(value, field))) for field in pick.split()}
        return _stable(value)
    if answer.headers.get("Content-Type") in ("application/x-tar", "application/vnd.docker.raw-stream"):
        return len(answer.body) > 0
    if "/logs" in answer.path and answer.status == 200:
        return _log_lines(answer.body)
    return _stable(answer.body.decode(errors="replace"))


def _log_lines(stream: bytes) -> list[str]:
    """The lines in a stream of 8-byte frames, sorted: derper's goroutines write theirs in any order."""
    text = b""
    while stream:
        size = int.from_bytes(stream[4:8])
        text += stream[8 : 8 + size]
        stream = stream[8 + size :]
    lines = text.decode().splitlines()
    panics = [index for index, line in enumerate(lines) if line.startswith(("panic:", "Usage of "))]
    lines = lines[: panics[0] + 1 if panics else None]
    # STUN begins beside the rest: a program that ends early may or may not have come to say so.
    return sorted(_stable(line) for line in lines if "STUN server" not in line)


def _field(value: Any, field: str) -> Any:
    for part in field.split("."):
        if isinstance(value, list):
            value = value[int(part)] if int(part) < len(value) else "<absent>"
        elif isinstance(value, dict):
            value = value.get(part, "<absent>")
    return value


def _in_order(value: Any) -> Any:
    """Lists of objects (published ports) have no order of their own."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return sorted(value, key=json.dumps)
    return value


def _stable(value: Any) -> Any:
    if isinstance(value, dict):
        return {_stable(key): _stable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_stable(item) for item in value]
    if isinstance(value, str):
        for pattern, placeholder in _VOLATILE:
            value = pattern.sub(placeholder, value)
    return value


def tar_of(files: dict[str, bytes], *, uid: int = 65532, mode: int = 0o600) -> bytes:
    """A tar archive with these files in it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.uid, member.gid, member.mode = len(content), uid, uid, mode
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def image_archive(files: dict[str, bytes], tag: str = TAG, **config: Any) -> bytes:
    """A docker archive of one layer that holds these programs; entrypoint ``/derper`` unless told otherwise, user 65532."""
    layer = tar_of(files, uid=0, mode=0o755)
    image = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": {
                "Entrypoint": ["/derper"],
                "User": "65532:65532",
                "Labels": {"derpmgmt.content": "abc"},
                **config,
            },
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]},
            "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "derpmgmt"}],
        }
    ).encode()
    config_name = hashlib.sha256(image).hexdigest() + ".json"
    manifest = json.dumps([{"Config": config_name, "RepoTags": [tag], "Layers": ["layer.tar"]}]).encode()
    return tar_of({config_name: image, "layer.tar": layer, "manifest.json": manifest}, uid=0, mode=0o644)


def create_body(address: str, tcp: int, udp: int, volume: str, **host: Any) -> dict[str, Any]:
    """A hardened relay's create request on the network ``derpmgmt``."""
    return {
        "Image": TAG,
        "User": "65532:65532",
        "Cmd": [
            *(
                "-a",
                f":{tcp}",
                "-http-port",
                "-1",
                "-stun-port",
                str(udp),
                "-hostname",
                address,
                "-home",
                "blank",
            ),
            *("-certmode", "manual", "-certdir", "/data", "-c", "/data/derper.key"),
        ],
        "ExposedPorts": {f"{tcp}/tcp": {}, f"{udp}/udp": {}},
        "Labels": LABELS,
        "HostConfig": {
            "NetworkMode": "derpmgmt",
            "ReadonlyRootfs": True,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "Memory": 268435456,
            "PidsLimit": 128,
            "Binds": [f"{volume}:/data"],
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "2"}},
            "RestartPolicy": {"Name": "unless-stopped"},
            "PortBindings": {
                f"{tcp}/tcp": [{"HostIp": address, "HostPort": str(tcp)}],
                f"{udp}/udp": [{"HostIp": address, "HostPort": str(udp)}],
            },
            **host,
        },
    }
