"""Images: reproducible archives that the panel writes itself and loads over its own connection; and the relay's.

An archive is what `docker load` takes (manifest.json, one config, one gzipped layer; the format of
https://github.com/moby/docker-image-spec). It holds one program with what it needs, the CA bundle of certifi, a passwd file
and nothing else. The same program always gives the same archive: USTAR headers, times 0, owner root, sorted entries.
"""

import gzip
import hashlib
import io
import json
import os
import struct
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import certifi
from django.utils.translation import gettext

from containers.spec import FILES_DIR, USER_ID
from derpmgmt.lib.refusals import Refusal

DERPER_VERSION = "v1.102.5"
DERPER_MODULE = "tailscale.com/cmd/derper"
REPOSITORY = "derpmgmt"
LABEL_CONTENT = "derpmgmt.content"

_COMPILE_SECONDS = 1800
_LARGEST_CONFIG = 64 * 1024
MACHINES = {62: "amd64", 183: "arm64"}  # e_machine of ELF (EM_X86_64, EM_AARCH64) → Docker's name
PT_INTERP = 3


class ImageError(Refusal):
    """The image cannot be made or read."""

    code = "image"


@dataclass(frozen=True)
class ImageArchive:
    """An archive on disk.

    `sha256` is the hash of what is in the image (config and uncompressed layer), which tag and label carry: an
    Engine's own image id differs from version to version. `architecture` is Docker's name, `size` is in bytes.
    """

    path: Path
    tag: str
    sha256: str
    architecture: str
    size: int


@dataclass(frozen=True)
class Recipe:
    """What makes an image what it is, but for the machine it runs on.

    `program` is its absolute path in the image, `libraries` are files that it needs beside itself (absolute path →
    content), `folders` those that mounts go over, `environment` is set for it, `made_by` says from what it was made.
    """

    name: str
    program: str
    folders: tuple[str, ...]
    made_by: str
    libraries: Mapping[str, bytes] = field(default_factory=dict)
    environment: tuple[str, ...] = ()


_DERPER = Recipe("derper", "/derper", (FILES_DIR,), f"derper {DERPER_VERSION}")


def build_image(derper_path: Path, out_dir: Path) -> ImageArchive:
    """Write the archive around a derper binary into `out_dir`.

    Raises ImageError when the file is not a statically linked Linux program for x86-64 or arm64.
    """
    architecture = read_architecture(derper_path)
    with derper_path.open("rb") as binary:
        return write_archive(_DERPER, binary, derper_path.stat().st_size, architecture, out_dir)


def build_placeholder(out_dir: Path, architecture: str = "amd64", recipe: Recipe = _DERPER) -> ImageArchive:
    """Write the archive for fleets that run no containers: same layout, with a few words in the program's place."""
    words = f"This stands where {recipe.name} is in an image for real hosts.\n".encode()
    return write_archive(recipe, io.BytesIO(words), len(words), architecture, out_dir)


def read_image(path: Path) -> ImageArchive:
    """Read back what an archive holds. Raises ImageError when it is missing or none of ours."""
    try:
        with tarfile.open(path) as archive:
            manifest = json.loads(_read_member(archive, "manifest.json"))[0]
            config = json.loads(_read_member(archive, manifest["Config"]))
        return ImageArchive(
            path=path,
            tag=manifest["RepoTags"][0],
            sha256=config["config"]["Labels"][LABEL_CONTENT],
            architecture=config["architecture"],
            size=path.stat().st_size,
        )
    except (OSError, tarfile.TarError, LookupError, TypeError, ValueError) as error:
        raise ImageError(gettext("%(path)s is no image of this panel.") % {"path": path}) from error


def compile_derper(out_dir: Path, *, architecture: str = "amd64") -> Path:
    """Build derper from its Go module at the pinned version; returns the binary's path in `out_dir`.

    Takes minutes and about a gigabyte of Go's caches the first time. The same version of Go gives the same bytes.
    Raises ImageError when Go is not installed, fails, or does not finish within half an hour.
    """
    with tempfile.TemporaryDirectory(prefix="derper-") as work:
        try:
            caches = json.loads(_run_go(["env", "-json", "GOMODCACHE", "GOCACHE"], {}, seconds=60))
            # A GOPATH of its own, not GOBIN: `go install` refuses GOBIN when it builds for another architecture.
            environment = {
                **caches,
                "GOPATH": work,
                "GOBIN": "",
                "GOFLAGS": "",
                "CGO_ENABLED": "0",
                "GOOS": "linux",
                "GOARCH": architecture,
            }
            package = f"{DERPER_MODULE}@{DERPER_VERSION}"
            flags = ["-trimpath", "-ldflags", "-s -w -buildid="]
            _run_go(["install", *flags, package], environment, seconds=_COMPILE_SECONDS)
        except FileNotFoundError as error:
            raise ImageError(
                gettext(
                    "Go is not installed here. Install Go, or give a derper binary that was built elsewhere."
                )
            ) from error
        except subprocess.TimeoutExpired as error:
            raise ImageError(
                gettext("Building derper took longer than half an hour and was ended.")
            ) from error
        except subprocess.CalledProcessError as error:
            raise ImageError(
                gettext("Go could not build derper: %(reason)s") % {"reason": error.stderr.strip()[-2000:]}
            ) from error
        built = next(path for path in Path(work, "bin").rglob("derper") if path.is_file())
        out_dir.mkdir(parents=True, exist_ok=True)
        target = out_dir / f"derper-{DERPER_VERSION}-{architecture}"
        return place_file(target, lambda file: file.write(built.read_bytes()), mode=0o755)


def read_architecture(path: Path) -> str:
    """Docker's name of the architecture that a static Linux program is for.

    Raises ImageError, with the reason, for everything that could not run in an image without a C library.
    """
    architecture, segments = read_program(path)
    if any(kind == PT_INTERP for kind, _content in segments):
        raise ImageError(
            gettext("%(path)s is not statically linked: build it with CGO_ENABLED=0.") % {"path": path}
        )
    return architecture


def read_program(path: Path) -> tuple[str, list[tuple[int, bytes]]]:
    """Docker's name of the architecture that a Linux program is for, and its segments: type, and content of an interpreter's.

    Reads the ELF header and program headers (elf(5)). Raises ImageError, with the reason, for what is no whole program for
    x86-64 or arm64.
    """
    try:
        with path.open("rb") as file:
            header = file.read(64)
            if len(header) < 64 or header[:4] != b"\x7fELF":
                raise ImageError(gettext("%(path)s is not a Linux program.") % {"path": path})
            kind, machine = struct.unpack_from("<HH", header, 16)
            if header[4:6] != b"\x02\x01" or machine not in MACHINES:
                raise ImageError(gettext("%(path)s is not for x86-64 or arm64.") % {"path": path})
            if kind not in (2, 3):  # ET_EXEC, ET_DYN (a position-independent program)
                raise ImageError(gettext("%(path)s is not a Linux program.") % {"path": path})
            (offset,) = struct.unpack_from("<Q", header, 32)
            entry_size, entries = struct.unpack_from("<HH", header, 54)
            file.seek(offset)
            table = file.read(entry_size * entries)
            if not table or len(table) < entry_size * entries:
                raise ImageError(gettext("%(path)s is not complete.") % {"path": path})
            segments = []
            for index in range(entries):
                (segment,) = struct.unpack_from("<I", table, index * entry_size)
                content = b""
                if segment == PT_INTERP:
                    begin, size = struct.unpack_from("<Q16xQ", table, index * entry_size + 8)
                    file.seek(begin)
                    content = file.read(min(size, 4096))
                segments.append((segment, content))
    except OSError as error:
        reason = {"path": path, "reason": error.strerror}
        raise ImageError(gettext("%(path)s cannot be read: %(reason)s") % reason) from error
    return MACHINES[machine], segments


class _Hashing(io.RawIOBase):
    """Passes what is written on to a file and hashes it on the way."""

    def __init__(self, target: io.BufferedIOBase) -> None:
        self.target = target
        self.sha256 = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        self.target.write(data)
        return len(data)


def write_archive(
    recipe: Recipe, binary: IO[bytes], binary_size: int, architecture: str, out_dir: Path
) -> ImageArchive:
    """Write the archive of a program into `out_dir`; it bears its content's hash in its name."""
    with tempfile.TemporaryFile() as layer:
        with gzip.GzipFile(filename="", mode="wb", fileobj=layer, mtime=0) as zipped:
            hashing = _Hashing(zipped)
            _write_layer(hashing, recipe, binary, binary_size)
        layer_size = layer.tell()
        layer.seek(0)
        diff_id = f"sha256:{hashing.sha256.hexdigest()}"

        config = _config(recipe, architecture, diff_id)
        # Over the config without the label that is to carry it. Nothing here depends on how well zlib packs.
        content = hashlib.sha256(_canonical(config)).hexdigest()
        config["config"]["Labels"] = {LABEL_CONTENT: content}
        tag = f"{REPOSITORY}/{recipe.name}:{content[:12]}"
        config_bytes = _canonical(config)
        config_name = f"{hashlib.sha256(config_bytes).hexdigest()}.json"
        manifest = _canonical([{"Config": config_name, "Layers": ["layer.tar.gz"], "RepoTags": [tag]}])

        def write(file: IO[bytes]) -> None:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
                for name, data in ((config_name, config_bytes), ("manifest.json", manifest)):
                    archive.addfile(_entry(name, len(data)), io.BytesIO(data))
                archive.addfile(_entry("layer.tar.gz", layer_size), layer)

        out_dir.mkdir(parents=True, exist_ok=True)
        path = place_file(out_dir / f"{recipe.name}-{content[:12]}.tar", write)
    return ImageArchive(path, tag, content, architecture, path.stat().st_size)


def _write_layer(target: io.RawIOBase, recipe: Recipe, binary: IO[bytes], binary_size: int) -> None:
    program = recipe.program
    people = (("root", 0), ("nonroot", USER_ID))
    passwd = "".join(f"{name}:x:{number}:{number}:{name}:/:{program}\n" for name, number in people)
    files = {
        "etc/passwd": passwd.encode(),
        "etc/ssl/certs/ca-certificates.crt": Path(certifi.where()).read_bytes(),
    }
    libraries = {name.lstrip("/"): content for name, content in recipe.libraries.items()}
    inside = [*files, *libraries, program.lstrip("/")]
    folders = {folder.lstrip("/") for folder in recipe.folders}
    folders |= {str(parent) for name in (*inside, *folders) for parent in Path(name).parents} - {"."}
    with tarfile.open(fileobj=target, mode="w|", format=tarfile.USTAR_FORMAT) as layer:
        for name in sorted(folders):
            layer.addfile(_entry(name, 0, mode=0o755, kind=tarfile.DIRTYPE))
        for name, data in sorted(files.items()):
            layer.addfile(_entry(name, len(data)), io.BytesIO(data))
        for name, data in sorted(libraries.items()):
            layer.addfile(_entry(name, len(data), mode=0o755), io.BytesIO(data))
        layer.addfile(_entry(program.lstrip("/"), binary_size, mode=0o755), binary)


def _config(recipe: Recipe, architecture: str, diff_id: str) -> dict[str, Any]:
    config: dict[str, Any] = {
        "Entrypoint": [recipe.program],
        "User": f"{USER_ID}:{USER_ID}",
        "WorkingDir": "/",
    }
    if recipe.environment:
        config["Env"] = list(recipe.environment)
    return {
        "architecture": architecture,
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": f"derpmgmt: {recipe.made_by}"}],
    }


def _entry(name: str, size: int, *, mode: int = 0o644, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.type = size, mode, kind  # times and owners are 0 already
    return entry


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _read_member(archive: tarfile.TarFile, name: str) -> bytes:
    member = archive.extractfile(name)
    if member is None:
        raise KeyError(name)
    return member.read(_LARGEST_CONFIG)


def place_file(path: Path, write: Callable[[IO[bytes]], object], mode: int = 0o644) -> Path:
    """Write a file whole or not at all: a half-written one never bears the final name."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
        temporary.chmod(mode)
        temporary.replace(path)
    except BaseException:
        temporary.unlink()
        raise
    return path


def _run_go(arguments: list[str], environment: dict[str, str], *, seconds: int) -> str:
    done = subprocess.run(
        ["go", *arguments],
        env={**os.environ, **environment},
        cwd=tempfile.gettempdir(),  # outside any module, whose go.mod would have a say
        capture_output=True,
        text=True,
        timeout=seconds,
        check=True,
    )
    return done.stdout
