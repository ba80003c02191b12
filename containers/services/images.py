"""Which relay image this panel gives out."""

import os
from pathlib import Path

from django.conf import settings
from django.utils.translation import gettext_lazy as _

from containers.image import ImageArchive, ImageError, build_image, build_placeholder, read_image
from fleet.ssh import RemoteError


class NoImage(RemoteError):
    """The panel has no relay image yet, or no longer the one that a relay was made with."""

    code = "no_image"
    sentence = _("The panel has no relay image: make one with “manage.py image_build”.")


def install_image(*, derper: Path | None) -> ImageArchive:
    """Make the image around a derper binary and let new relays use it; `None` makes the sandbox's placeholder.

    Raises `ImageError` when the file is no derper that can run in an empty image.
    """
    folder = settings.IMAGE_DIR
    folder.mkdir(parents=True, exist_ok=True)
    archive = build_placeholder(folder) if derper is None else build_image(derper, folder)
    aside = folder / f".current.{os.getpid()}"
    aside.unlink(missing_ok=True)
    aside.symlink_to(archive.path.name)
    aside.rename(folder / "current")
    return archive


def current_image() -> ImageArchive:
    """The image that new relays get. Raises `NoImage`."""
    try:
        return read_image((settings.IMAGE_DIR / "current").resolve())
    except (ImageError, OSError) as error:
        raise NoImage() from error


def find_image(tag: str) -> ImageArchive:
    """The image with this tag, so that a relay keeps the one it was made with; the current one for "".

    Raises `NoImage`.
    """
    current = current_image()
    if tag in {"", current.tag}:
        return current
    for path in sorted(settings.IMAGE_DIR.glob("*.tar*")):
        try:
            archive = read_image(path)
        except ImageError:
            continue
        if archive.tag == tag:
            return archive
    raise NoImage()
