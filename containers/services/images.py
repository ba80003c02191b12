"""Which images this panel gives out: that of relays and that of gates."""

import os
from pathlib import Path

from django.conf import settings
from django.utils.translation import gettext_lazy as _

from containers.gate_image import build_gate_image, build_gate_placeholder, take_gate_image
from containers.image import ImageArchive, ImageError, build_image, build_placeholder, read_image
from fleet.ssh import RemoteError

# In the folder of images, links to what is given out.
RELAY_LINK, GATE_LINK = "current", "current-gate"


class NoImage(RemoteError):
    """The panel has no relay image yet, or no longer the one that a relay was made with."""

    code = "no_image"
    sentence = _("The panel has no relay image: make one with “manage.py image_build”.")


class NoGateImage(NoImage):
    """The panel has no image of the gate yet."""

    code = "no_gate_image"
    sentence = _("The panel has no image of the gate: make one with “manage.py image_build --only gate”.")


class NoImageForMachine(NoImage):
    """The panel has images, but none that runs on the server's kind of machine."""

    code = "no_image_for_machine"
    sentence = _(
        "The panel has no relay image for %(architecture)s, only for %(others)s: make one too with “manage.py image_build --only "
        "relay --architecture %(architecture)s”, or give --derper a file for it."
    )
    gate_sentence = _(
        "The panel has no gate image for %(architecture)s, only for %(others)s: run “manage.py image_build --only gate” on such a "
        "machine, and give the archive here by --gate-archive."
    )


def install_image(*, derper: Path | None) -> ImageArchive:
    """Make the image around a derper binary and let new relays use it; `None` makes the sandbox's placeholder.

    Raises `ImageError` when the file is no derper that can run in an empty image.
    """
    folder = settings.IMAGE_DIR
    return _give_out(build_placeholder(folder) if derper is None else build_image(derper, folder), RELAY_LINK)


def install_gate_image(*, nginx: Path | None = None, archive: Path | None = None) -> ImageArchive:
    """Make the gate's image from an nginx of this machine, or take an archive that was made elsewhere, and let gates use it.

    With neither it makes the sandbox's placeholder. Raises `ImageError` when it is none that can be used.
    """
    folder = settings.IMAGE_DIR
    if archive is not None:
        made = take_gate_image(archive, folder)
    else:
        made = build_gate_placeholder(folder) if nginx is None else build_gate_image(nginx, folder)
    return _give_out(made, GATE_LINK)


def current_image(architecture: str = "") -> ImageArchive:
    """The image that new relays get on machines of this architecture (Docker's name; "" = whichever was made last).

    Raises `NoImage`.
    """
    return _current(RELAY_LINK, NoImage(), architecture)


def current_gate_image(architecture: str = "") -> ImageArchive:
    """The image that gates get which are made now, on machines of this architecture. Raises `NoGateImage`, `NoImageForMachine`."""
    return _current(GATE_LINK, NoGateImage(), architecture)


def find_image(tag: str, architecture: str = "") -> ImageArchive:
    """The image with this tag, so that a relay keeps the one it was made with; the current one for "", and where the machine is
    of another architecture by now.

    Raises `NoImage`.
    """
    current = current_image(architecture)
    found = _find(tag, current)
    if found is None:
        raise NoImage()
    return found if architecture in {"", found.architecture} else current


def find_gate_image(tag: str, architecture: str = "") -> ImageArchive:
    """The image with this tag, so that a gate keeps the one it was made with; the current one for "" or where it is gone or for
    other machines.

    Raises `NoGateImage`, `NoImageForMachine`.
    """
    current = current_gate_image(architecture)
    found = _find(tag, current)
    return found if found and architecture in {"", found.architecture} else current


def _give_out(archive: ImageArchive, link: str) -> ImageArchive:
    folder = archive.path.parent
    for name in (f"{link}-{archive.architecture}", link):
        aside = folder / f".{name}.{os.getpid()}"
        aside.unlink(missing_ok=True)
        aside.symlink_to(archive.path.name)
        aside.rename(folder / name)
    return archive


def _current(link: str, absent: NoImage, architecture: str) -> ImageArchive:
    others = set()
    # The link without an architecture is that of the image made last, and the only one of panels from before.
    for name in [f"{link}-{architecture}", link] if architecture else [link]:
        try:
            archive = read_image((settings.IMAGE_DIR / name).resolve())
        except (ImageError, OSError):
            continue
        if architecture in {"", archive.architecture}:
            return archive
        others.add(archive.architecture)
    if not others:
        raise absent
    sentence = NoImageForMachine.gate_sentence if link == GATE_LINK else ""
    raise NoImageForMachine(sentence, architecture=architecture, others=", ".join(sorted(others)))


def _find(tag: str, current: ImageArchive) -> ImageArchive | None:
    if tag in {"", current.tag}:
        return current
    for path in sorted(settings.IMAGE_DIR.glob("*.tar*")):
        try:
            archive = read_image(path)
        except ImageError:
            continue
        if archive.tag == tag:
            return archive
    return None
