"""The gate's image: an nginx of this machine with the shared libraries and the loader it runs with, and nothing else."""

import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

from django.utils.translation import gettext

from containers.gate import GATE_DIR, GATE_PROGRAM
from containers.image import (
    PT_INTERP,
    REPOSITORY,
    ImageArchive,
    ImageError,
    Recipe,
    build_placeholder,
    place_file,
    read_image,
    read_program,
    write_archive,
)

NGINX_PLACES = ("/usr/sbin/nginx", "/usr/local/sbin/nginx", "/usr/local/nginx/sbin/nginx")
_ASK_SECONDS = 30
# Where the libraries lie in the image, whatever folders the machine keeps them in: an image has no cache of them.
_LIBRARY_DIR = "/lib"
_RECIPE = Recipe(
    "gate",
    GATE_PROGRAM,
    (GATE_DIR, "/tmp"),  # noqa: S108
    "a placeholder",
    environment=(f"LD_LIBRARY_PATH={_LIBRARY_DIR}",),
)


def find_nginx() -> Path:
    """The nginx that is installed on this machine. Raises ImageError when there is none."""
    for place in (*NGINX_PLACES, shutil.which("nginx")):
        if place and Path(place).is_file():
            return Path(place)
    raise ImageError(
        gettext(
            "nginx is not installed here, and the gate's image is made from it. Install it (Debian and Ubuntu: apt-get "
            "install nginx-light; it need not run), or give --nginx or --gate-archive."
        )
    )


def build_gate_image(nginx: Path, out_dir: Path) -> ImageArchive:
    """Write the archive around an nginx into `out_dir`; its libraries are those that this machine would load it with.

    Raises ImageError when the file is no nginx that runs here and speaks TLS, or a library of it is missing.
    """
    architecture, segments = read_program(nginx)
    interpreters = [content.rstrip(b"\0").decode() for kind, content in segments if kind == PT_INTERP]
    libraries = _read_libraries(nginx, interpreters[0]) if interpreters else {}
    recipe = replace(_RECIPE, libraries=libraries, made_by=f"nginx {_read_version(nginx)}")
    with nginx.open("rb") as binary:
        return write_archive(recipe, binary, nginx.stat().st_size, architecture, out_dir)


def build_gate_placeholder(out_dir: Path, architecture: str = "amd64") -> ImageArchive:
    """Write the archive for fleets that run no containers: a few words in nginx's place, and no libraries."""
    return build_placeholder(out_dir, architecture, _RECIPE)


def take_gate_image(path: Path, out_dir: Path) -> ImageArchive:
    """Copy an archive that was made elsewhere into `out_dir`. Raises ImageError when it is no gate's image."""
    given = read_image(path)
    if not re.fullmatch(rf"{REPOSITORY}/{_RECIPE.name}:[0-9a-f]{{12}}", given.tag):
        raise ImageError(gettext("%(path)s is not the image of a gate.") % {"path": path})
    out_dir.mkdir(parents=True, exist_ok=True)
    target = out_dir / f"{given.tag.rpartition('/')[2].replace(':', '-')}.tar"
    with path.open("rb") as source:
        place_file(target, lambda file: shutil.copyfileobj(source, file))
    return replace(given, path=target)


def _read_libraries(program: Path, loader: str) -> dict[str, bytes]:
    """The loader at its own place and every library that it finds for the program, by path in the image."""
    # What `ldd` does, without its shell: the loaders of glibc and musl both know --list.
    listed = _run([loader, "--list", str(program)], program)
    found = {loader: loader}
    for line in listed.splitlines():
        name, arrow, place = line.strip().partition(" => ")
        if not arrow:
            continue  # the loader itself, and what the kernel brings along
        if place.startswith("not found"):
            raise ImageError(
                gettext("A library that %(path)s needs is missing on this machine: %(name)s")
                % {"path": program, "name": name}
            )
        if Path(name).name != Path(loader).name:
            found[f"{_LIBRARY_DIR}/{Path(name).name}"] = place.partition(" (")[0]
    return {inside: Path(place).read_bytes() for inside, place in found.items()}


def _read_version(program: Path) -> str:
    told = _run([str(program), "-V"], program)
    version = re.search(r"nginx/(\S+)", told)
    if not version or "--with-http_ssl_module" not in told:
        raise ImageError(gettext("%(path)s is not an nginx with TLS.") % {"path": program})
    return version[1]


def _run(command: list[str], program: Path) -> str:
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_ASK_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ImageError(
            gettext(
                "%(path)s does not run on this machine. Make the image on a machine like the servers, and give its archive "
                "here by --gate-archive."
            )
            % {"path": program}
        ) from error
    return done.stdout
