"""The gate's image, made from an nginx and the libraries it runs with."""

import io
import json
import os
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.utils import translation

from containers import gate_image
from containers.gate_image import build_gate_image, build_gate_placeholder, find_nginx, take_gate_image
from containers.image import ImageError, build_placeholder, read_image
from tests.containers.test_image import digest, write_elf


@pytest.fixture(autouse=True)
def _english() -> Iterator[None]:
    with translation.override("en"):
        yield


@pytest.fixture
def nginx() -> Path:
    try:
        return find_nginx()
    except ImageError:
        if os.environ.get("DERPMGMT_LAB") == "required":
            raise
        pytest.skip("nginx is not installed here")


def layer_of(path: Path) -> tuple[dict[str, tarfile.TarInfo], dict]:
    """Entries of an archive's layer by name, and its config."""
    with tarfile.open(path) as archive:
        assert {(entry.mtime, entry.uid, entry.gid) for entry in archive} == {(0, 0, 0)}
        manifest = json.load(archive.extractfile("manifest.json"))
        config = json.load(archive.extractfile(manifest[0]["Config"]))
        packed = archive.extractfile("layer.tar.gz").read()
    with tarfile.open(fileobj=io.BytesIO(packed)) as layer:
        return {entry.name: entry for entry in layer}, config


@pytest.mark.slow
def test_archive_is_the_same_and_whole_when_built_twice(nginx, tmp_path):
    first, second = build_gate_image(nginx, tmp_path / "one"), build_gate_image(nginx, tmp_path / "two")
    assert digest(first.path) == digest(second.path)
    assert first.tag == f"derpmgmt/gate:{first.sha256[:12]}"
    assert read_image(first.path) == first
    entries, config = layer_of(first.path)
    assert config["config"]["Entrypoint"] == ["/usr/sbin/nginx"]
    assert config["config"]["User"] == "65532:65532"
    assert entries["usr/sbin/nginx"].mode == 0o755
    assert {"gate", "tmp", "etc/passwd", "etc/ssl/certs/ca-certificates.crt"} <= set(entries)
    assert any("libc" in name for name in entries)
    assert any(name.rpartition("/")[2].startswith("ld-") for name in entries)


def test_placeholder_names_the_same_program_when_there_is_no_nginx(tmp_path):
    made = build_gate_placeholder(tmp_path)
    entries, config = layer_of(made.path)
    assert config["config"]["Entrypoint"] == ["/usr/sbin/nginx"]
    assert entries["usr/sbin/nginx"].mode == 0o755
    assert made.tag.startswith("derpmgmt/gate:")
    assert made.path.name == f"gate-{made.sha256[:12]}.tar"


def test_remedy_is_told_when_nginx_is_absent(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(gate_image, "NGINX_PLACES", (str(tmp_path / "nginx"),))
    with pytest.raises(ImageError, match="apt-get install nginx-light"):
        find_nginx()


def test_program_is_refused_in_words_when_it_is_no_nginx(tmp_path):
    def refusal(path: Path) -> str:
        with pytest.raises(ImageError) as refused:
            build_gate_image(path, tmp_path / "out")
        return str(refused.value)

    assert "is not an nginx with TLS" in refusal(Path(os.path.realpath(sys.executable)))
    script = tmp_path / "nginx"
    script.write_text("#!/bin/sh\n")
    assert "not a Linux program" in refusal(script)
    assert "does not run on this machine" in refusal(write_elf(tmp_path / "elf"))
    assert "cannot be read" in refusal(tmp_path / "none")
    assert not (tmp_path / "out").exists()


def test_archive_is_taken_when_it_was_made_elsewhere(tmp_path):
    made = build_gate_placeholder(tmp_path / "elsewhere")
    renamed = made.path.rename(tmp_path / "from-elsewhere.tar")
    taken = take_gate_image(renamed, tmp_path / "images")
    assert taken.path == tmp_path / "images" / f"gate-{made.sha256[:12]}.tar"
    assert read_image(taken.path) == taken
    assert (taken.tag, taken.sha256) == (made.tag, made.sha256)


@pytest.mark.parametrize("kind", ["relay", "text", "none"])
def test_archive_is_refused_when_it_is_no_gate(tmp_path, kind):
    path = build_placeholder(tmp_path).path if kind == "relay" else tmp_path / "given.tar"
    if kind == "text":
        path.write_text("no archive")
    with pytest.raises(ImageError, match=r"\.tar is (not the|no) image"):
        take_gate_image(path, tmp_path / "images")
    assert not (tmp_path / "images").exists()
