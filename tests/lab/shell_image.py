"""Containers with a shell on hosts of the lab, from an image made by hand."""

import hashlib
import io
import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any

from fleet.engine import Engine
from fleet.ssh import Endpoint
from tests.lab.host import Host

IMAGE = "lab/shell:1"


def endpoint(host: Host) -> Endpoint:
    return Endpoint(host.address, host.ssh_port, host.user, host.host_key, host.private_key)


def write_archive(folder: Path) -> Path:
    """An image made by hand of this machine's shell and the libraries it needs."""
    programs = ["/bin/dash", "/bin/sleep", "/bin/cat"]
    linked = subprocess.run(["ldd", *programs], check=True, capture_output=True, text=True).stdout
    files = {path: path for path in linked.split() if path.startswith("/") and not path.endswith(":")}
    files |= {program: program for program in programs} | {"/bin/sh": "/bin/dash"}

    def pack(contents: dict[str, bytes]) -> bytes:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            for name, data in contents.items():
                entry = tarfile.TarInfo(name.lstrip("/"))
                entry.size, entry.mode = len(data), 0o755
                tar.addfile(entry, io.BytesIO(data))
        return packed.getvalue()

    layer = pack({name: Path(source).read_bytes() for name, source in files.items()})
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["/bin/sleep", "100"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]
    image = pack(
        {
            "config.json": json.dumps(config).encode(),
            "layer.tar": layer,
            "manifest.json": json.dumps(manifest).encode(),
        }
    )
    path = folder / "shell.tar"
    path.write_bytes(image)
    return path


def run_container(engine: Engine, command: list[str], *, port: int = 0, name: str | None = None) -> str:
    bound: Any = {f"{port}/tcp": ("127.0.0.1", port)} if port else None
    made = engine.create_container(
        IMAGE,
        command,
        name=name,
        ports=[port] if port else None,
        host_config=engine.create_host_config(port_bindings=bound),
    )
    engine.start(made["Id"])
    return str(made["Id"])
