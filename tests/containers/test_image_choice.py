"""Images for machines of several kinds lie side by side, and each gets its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command

from containers.gate_image import build_gate_placeholder
from containers.image import ImageArchive, build_image, build_placeholder
from containers.services import images
from containers.services.images import GATE_LINK, RELAY_LINK, NoGateImage, NoImage, NoImageForMachine
from tests.containers.test_image import write_elf


@pytest.fixture
def folder(settings: Any, tmp_path: Path) -> Path:
    settings.IMAGE_DIR = tmp_path
    return tmp_path


def give_out(archive: ImageArchive, link: str = RELAY_LINK) -> ImageArchive:
    return images._give_out(archive, link)


def test_nothing_is_there_before_an_image_was_made(folder: Path) -> None:
    for architecture in ("", "amd64"):
        with pytest.raises(NoImage):
            images.current_image(architecture)
        with pytest.raises(NoGateImage):
            images.current_gate_image(architecture)


def test_each_kind_of_machine_gets_its_own(folder: Path) -> None:
    amd = give_out(build_placeholder(folder, "amd64"))
    arm = give_out(build_placeholder(folder, "arm64"))
    assert images.current_image("amd64").tag == amd.tag != arm.tag
    assert images.current_image("arm64").tag == arm.tag
    assert images.current_image().tag == arm.tag  # made last
    newer = give_out(build_image(write_elf(folder / "derper"), folder))
    assert images.current_image("amd64").tag == newer.tag
    assert images.current_image("arm64").tag == arm.tag
    # A relay keeps the image that it was made with, unless its machine is of another kind by now.
    assert images.find_image(amd.tag, "amd64").tag == amd.tag
    assert images.find_image(amd.tag, "arm64").tag == arm.tag
    assert images.find_image("", "arm64").tag == arm.tag


def test_what_is_missing_for_a_machine_is_said_with_what_there_is(folder: Path) -> None:
    give_out(build_placeholder(folder, "amd64"))
    give_out(build_gate_placeholder(folder, "amd64"), GATE_LINK)
    with pytest.raises(NoImageForMachine) as refusal:
        images.current_image("arm64")
    assert refusal.value.values == {"architecture": "arm64", "others": "amd64"}
    with pytest.raises(NoImageForMachine) as refusal:
        images.current_gate_image("arm64")
    assert "--gate-archive" in str(refusal.value.sentence)


def test_the_only_link_of_a_panel_from_before_counts_for_its_own_kind(folder: Path) -> None:
    made = give_out(build_placeholder(folder, "arm64"))
    (folder / f"{RELAY_LINK}-arm64").unlink()
    assert images.current_image("arm64").tag == images.current_image().tag == made.tag
    with pytest.raises(NoImageForMachine):
        images.current_image("amd64")


@pytest.mark.django_db
def test_derper_is_built_for_the_architecture_that_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compile_here(out_dir: Path, *, architecture: str) -> Path:
        return write_elf(out_dir / "derper", machine={"amd64": 62, "arm64": 183}[architecture])

    monkeypatch.setattr("containers.management.commands.image_build.compile_derper", compile_here)
    for architecture in ("amd64", "arm64"):
        call_command("image_build", "--only", "relay", "--architecture", architecture)
    assert {images.current_image(name).architecture for name in ("amd64", "arm64")} == {"amd64", "arm64"}
