"""The image archive that the panel writes itself."""

import gzip
import hashlib
import io
import json
import os
import struct
import tarfile
from collections.abc import Iterator
from pathlib import Path

import certifi
import pytest
from django.utils import translation

from containers.image import (
    DERPER_MODULE,
    DERPER_VERSION,
    ImageError,
    build_image,
    build_placeholder,
    compile_derper,
    read_architecture,
    read_image,
)


@pytest.fixture(autouse=True)
def _english() -> Iterator[None]:
    with translation.override("en"):
        yield


def write_elf(
    path: Path, *, machine: int = 62, kind: int = 2, segments: tuple[int, ...] = (1,), tail: bytes = b""
) -> Path:
    """A minimal 64-bit little-endian ELF file with program headers of the given types (elf(5))."""
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", kind, machine, 1, 0, 64, 0, 0, 64, 56, len(segments), 0, 0, 0)
    path.write_bytes(header + b"".join(struct.pack("<I", segment) + bytes(52) for segment in segments) + tail)
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_archive_is_the_same_to_the_byte_when_built_again(tmp_path):
    binary = write_elf(tmp_path / "derper", tail=bytes(300_000))
    first = build_image(binary, tmp_path / "one")
    os.utime(binary, (1, 1))
    binary.chmod(0o600)
    second = build_image(binary, tmp_path / "two")
    assert digest(first.path) == digest(second.path)
    assert (first.tag, first.sha256) == (second.tag, second.sha256)


def test_tag_changes_when_the_binary_changes(tmp_path):
    first = build_image(write_elf(tmp_path / "derper"), tmp_path)
    second = build_image(write_elf(tmp_path / "derper", tail=b"x"), tmp_path)
    assert first.tag != second.tag
    assert first.path != second.path


def test_archive_says_what_docker_reads_when_loaded(tmp_path):
    binary = write_elf(tmp_path / "derper", machine=183, tail=b"the program")
    built = build_image(binary, tmp_path)
    with tarfile.open(built.path) as archive:
        assert archive.pax_headers == {}
        assert {(entry.mtime, entry.uid, entry.gid) for entry in archive} == {(0, 0, 0)}
        manifest = json.load(archive.extractfile("manifest.json"))
        [image] = manifest
        config_bytes = archive.extractfile(image["Config"]).read()
        packed = archive.extractfile(image["Layers"][0]).read()
    assert image["Config"] == hashlib.sha256(config_bytes).hexdigest() + ".json"
    assert image["RepoTags"] == [built.tag] == [f"derpmgmt/derper:{built.sha256[:12]}"]
    assert packed[:8] == b"\x1f\x8b\x08\x00\x00\x00\x00\x00"  # RFC 1952: no name, time 0

    config = json.loads(config_bytes)
    assert config["architecture"] == built.architecture == "arm64"
    assert config["config"]["Entrypoint"] == ["/derper"]
    assert config["config"]["User"] == "65532:65532"
    assert config["config"]["Labels"] == {"derpmgmt.content": built.sha256}

    with tarfile.open(fileobj=io.BytesIO(packed)) as layer:
        assert {(entry.mtime, entry.uid, entry.gid) for entry in layer} == {(0, 0, 0)}
        assert layer.extractfile("derper").read() == binary.read_bytes()
        assert layer.getmember("derper").mode == 0o755
        bundle = layer.extractfile("etc/ssl/certs/ca-certificates.crt").read()
        assert bundle == Path(certifi.where()).read_bytes()
        assert b"nonroot:x:65532:65532" in layer.extractfile("etc/passwd").read()
        # A new volume takes over the owner of the folder it is mounted on: root, so the relay cannot add files.
        assert layer.getmember("relay").isdir()
        assert layer.getmember("relay").mode == 0o755
    assert config["rootfs"]["diff_ids"] == ["sha256:" + hashlib.sha256(gzip.decompress(packed)).hexdigest()]


def test_archive_tells_what_it_holds_when_read_back(tmp_path):
    built = build_image(write_elf(tmp_path / "derper"), tmp_path)
    assert read_image(built.path) == built


def test_placeholder_has_the_same_layout_when_there_is_no_binary(tmp_path):
    real, placeholder = build_image(write_elf(tmp_path / "derper"), tmp_path), build_placeholder(tmp_path)
    names = []
    for built in (real, placeholder):
        with (
            tarfile.open(built.path) as archive,
            tarfile.open(fileobj=archive.extractfile("layer.tar.gz"), mode="r|gz") as layer,
        ):
            names.append([(entry.name, entry.mode) for entry in layer])
    assert names[0] == names[1]
    assert read_image(placeholder.path) == placeholder
    assert placeholder.tag != real.tag


@pytest.mark.parametrize("content", [b"", b"not an archive", None])
def test_file_is_refused_when_it_is_no_image(tmp_path, content):
    path = tmp_path / "image.tar"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ImageError, match=r"image\.tar is no image of this panel"):
        read_image(path)


@pytest.mark.parametrize(
    ("machine", "kind", "architecture"), [(62, 2, "amd64"), (62, 3, "amd64"), (183, 2, "arm64")]
)
def test_architecture_is_read_when_the_program_is_static(tmp_path, machine, kind, architecture):
    assert read_architecture(write_elf(tmp_path / "derper", machine=machine, kind=kind)) == architecture


def test_program_is_refused_in_words_when_it_cannot_run_in_the_image(tmp_path):
    def refusal(path: Path) -> str:
        with pytest.raises(ImageError) as refused:
            build_image(path, tmp_path / "out")
        return str(refused.value)

    path = tmp_path / "derper"
    assert "statically linked" in refusal(write_elf(path, segments=(6, 3, 1)))
    assert "x86-64 or arm64" in refusal(write_elf(path, machine=243))
    assert "not a Linux program" in refusal(write_elf(path, kind=1))
    path.write_bytes(b"MZ" + bytes(200))
    assert "not a Linux program" in refusal(path)
    path.write_bytes(write_elf(path).read_bytes()[:80])
    assert "not complete" in refusal(path)
    path.unlink()
    assert "cannot be read" in refusal(path)
    assert not (tmp_path / "out").exists()


def write_go(folder: Path, install: str) -> None:
    """A stand-in for the `go` command: answers `go env -json`, and does as told for `go install`."""
    folder.mkdir()
    script = f"""#!/bin/sh
if [ "$1" = env ]; then echo '{{"GOMODCACHE": "{folder}/mod", "GOCACHE": "{folder}/cache"}}'; exit; fi
{install}
"""
    (folder / "go").write_text(script)
    (folder / "go").chmod(0o755)


def test_pinned_module_is_built_statically_when_go_is_there(tmp_path, monkeypatch):
    install = (
        f'echo "$@ cgo=$CGO_ENABLED $GOOS/$GOARCH" >{tmp_path}/asked\n'
        'mkdir -p "$GOPATH/bin/linux_arm64"; echo built >"$GOPATH/bin/linux_arm64/derper"'
    )
    write_go(tmp_path / "bin", install)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin", prepend=os.pathsep)
    built = compile_derper(tmp_path / "out", architecture="arm64")
    assert built.read_text() == "built\n"
    assert os.access(built, os.X_OK)
    assert (tmp_path / "asked").read_text() == (
        f"install -trimpath -ldflags -s -w -buildid= tailscale.com/cmd/derper@{DERPER_VERSION} cgo=0 linux/arm64\n"
    )


def test_reason_is_told_when_go_fails(tmp_path, monkeypatch):
    write_go(tmp_path / "bin", 'echo "requires go >= 1.27" >&2; exit 1')
    monkeypatch.setenv("PATH", f"{tmp_path}/bin", prepend=os.pathsep)
    with pytest.raises(ImageError, match=r"requires go >= 1\.27"):
        compile_derper(tmp_path / "out")


def test_remedy_is_told_when_go_is_absent(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ImageError, match="Install Go"):
        compile_derper(tmp_path / "out")


def test_dockerfile_builds_the_same_when_versions_move():
    text = (Path(__file__).parents[2] / "deploy" / "Dockerfile.derper").read_text()
    assert f"ARG DERPER_VERSION={DERPER_VERSION}\n" in text
    assert f'go install -trimpath -ldflags "-s -w -buildid=" {DERPER_MODULE}@${{DERPER_VERSION}}' in text
