"""The images of one server: archives that were loaded, known by content, tag and label."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import posixpath
import re
import secrets
import tarfile
from typing import Any, NoReturn

from derpmgmt.sandbox.refusals import Refusal
from derpmgmt.sandbox.state import State

LAYER_LIMIT = 1024 * 1024 * 1024
_ID = re.compile(r"(sha256:)?[0-9a-f]{4,64}")


class LoadFailed(Exception):
    """An archive could not be loaded. The Engine says so within an answer of status 200."""


def full_name(reference: str) -> str:
    """A reference with its tag: ``latest`` where none is given."""
    return reference if ":" in reference.rpartition("/")[2] else f"{reference}:latest"


class Images:
    """Kept in the state by id: ``tags``, ``config`` (the image's own configuration), ``size`` in bytes and ``paths``: what the
    layers hold, as path → [kind, uid, gid, mode]; contents are not kept, except of the passwd file."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._all: dict[str, dict[str, Any]] = state.images

    def __len__(self) -> int:
        return len(self._all)

    def find(self, reference: str) -> tuple[str, dict[str, Any]] | None:
        """Id and image of a tag, an id or the beginning of an id."""
        tag = full_name(reference)
        for image_id, image in self._all.items():
            if tag in image["tags"]:
                return image_id, image
        if _ID.fullmatch(reference):
            start = reference if reference.startswith("sha256:") else f"sha256:{reference}"
            found = [item for item in self._all.items() if item[0].startswith(start)]
            if len(found) == 1:
                return found[0]
        return None

    def keep(self, images: list[tuple[str, dict[str, Any]]]) -> list[str]:
        """Take images that ``read_archive`` gave; returns the lines that report it."""
        report = []
        for image_id, image in images:
            for tag in image["tags"]:
                for other_id, other in self._all.items():
                    if tag in other["tags"] and other_id != image_id:
                        other["tags"].remove(tag)
                        words = f"The image {tag} already exists, renaming the old one with ID {other_id}"
                        report.append(f"{words} to empty string")
                report.append(f"Loaded image: {tag}")
            if not image["tags"]:
                report.append(f"Loaded image ID: {image_id}")
            known = self._all.setdefault(image_id, image)
            known["tags"] = sorted({*known["tags"], *image["tags"]})
        self._state.save()
        return report

    def inspect(self, reference: str) -> dict[str, Any]:
        """Raises Refusal when there is none."""
        found = self.find(reference)
        if found is None:
            raise Refusal(404, f"no such image: {reference}: No such image: {_asked_for(reference)}")
        image_id, image = found
        config = image["config"]
        return {
            "Id": image_id,
            "RepoTags": image["tags"],
            "RepoDigests": [],
            "Parent": "",
            "Comment": "",
            "Created": config.get("created", "0001-01-01T00:00:00Z"),
            "Config": container_config(config.get("config") or {}),
            "Architecture": config.get("architecture", ""),
            "Os": config.get("os", ""),
            "Size": image["size"],
            "VirtualSize": image["size"],
            "RootFS": {"Type": "layers", "Layers": config.get("rootfs", {}).get("diff_ids", [])},
            "Metadata": {"LastTagTime": "0001-01-01T00:00:00Z"},
        }

    def select(self, filters: dict[str, list[str]]) -> list[dict[str, Any]]:
        """Raises Refusal for a filter that the Engine does not know."""
        for name in filters:
            if name not in ("label", "reference", "dangling", "before", "since"):
                raise Refusal(400, f"Invalid filter '{name}'")
        return [
            {
                "Containers": -1,
                "Created": 0,
                "Id": image_id,
                "Labels": (image["config"].get("config") or {}).get("Labels"),
                "ParentId": "",
                "RepoDigests": None,
                "RepoTags": image["tags"] or None,
                "SharedSize": -1,
                "Size": image["size"],
                "VirtualSize": image["size"],
            }
            for image_id, image in self._all.items()
            if _matches(image, filters)
        ]

    def delete(self, reference: str, *, force: bool, users: dict[str, bool]) -> list[dict[str, str]]:
        """Take away a tag, and the image with its last one.

        ``users``: ids of the containers made from it → whether they run. Raises Refusal when there is none or it is in use.
        """
        found = self.find(reference)
        if found is None:
            raise Refusal(404, f"No such image: {_asked_for(reference)}")
        image_id, image = found
        short = image_id.removeprefix("sha256:")[:12]
        by_tag = full_name(reference) in image["tags"]
        if by_tag and len(image["tags"]) > 1:
            image["tags"].remove(full_name(reference))
            self._state.save()
            return [{"Untagged": full_name(reference)}]
        for container, running in sorted(users.items(), key=lambda item: not item[1]):
            if by_tag and not force:
                raise Refusal(
                    409,
                    f'conflict: unable to remove repository reference "{reference}" (must force) - container'
                    f" {container[:12]} is using its referenced image {short}",
                )
            if not by_tag and (running or not force):
                how, state = ("cannot be forced", "running") if running else ("must be forced", "stopped")
                raise Refusal(
                    409,
                    f"conflict: unable to delete {short} ({how}) - image is being used by {state} container"
                    f" {container[:12]}",
                )
        done = [{"Untagged": tag} for tag in image["tags"]]
        image["tags"] = []
        if not users:
            layers = image["config"].get("rootfs", {}).get("diff_ids", [])
            del self._all[image_id]
            kept = {layer for other in self._all.values() for layer in other["config"]["rootfs"]["diff_ids"]}
            done += [
                {"Deleted": image_id},
                *({"Deleted": layer} for layer in reversed(layers) if layer not in kept),
            ]
        self._state.save()
        return done


def container_config(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration with every field that the Engine always shows (api/types/container/config.go)."""
    empty: dict[str, Any] = {
        "Hostname": "",
        "Domainname": "",
        "User": "",
        "AttachStdin": False,
        "AttachStdout": False,
        "AttachStderr": False,
        "Tty": False,
        "OpenStdin": False,
        "StdinOnce": False,
        "Env": None,
        "Cmd": None,
        "Image": "",
        "Volumes": None,
        "WorkingDir": "",
        "Entrypoint": None,
        "OnBuild": None,
        "Labels": None,
    }
    optional = ("ExposedPorts", "StopSignal", "StopTimeout", "Healthcheck", "Shell")
    kept = {name: config[name] for name in (*empty, *optional) if config.get(name) is not None}
    return empty | kept


def _asked_for(reference: str) -> str:
    return reference if _ID.fullmatch(reference) else full_name(reference)


def _matches(image: dict[str, Any], filters: dict[str, list[str]]) -> bool:
    labels = (image["config"].get("config") or {}).get("Labels") or {}
    for wanted in filters.get("label", ()):
        name, equals, value = wanted.partition("=")
        if name not in labels or (equals and labels[name] != value):
            return False
    references = filters.get("reference")
    if references:
        names = {name for tag in image["tags"] for name in (tag, tag.rpartition(":")[0])}
        if not names.intersection(references):
            return False
    dangling = filters.get("dangling")
    return not dangling or bool(image["tags"]) != (dangling[0] in ("1", "true"))


def read_archive(archive: bytes, *, disk_full: bool) -> list[tuple[str, dict[str, Any]]]:
    """The images in an archive: ids and what is kept of them. Raises LoadFailed in the Engine's words."""
    try:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            files = {member.name.removeprefix("./"): member for member in tar if member.isfile()}

            def read(name: str) -> bytes:
                member = files.get(name)
                content = tar.extractfile(member) if member else None
                if content is None:
                    _missing(name)
                return content.read()

            if disk_full and files:
                first = next(iter(files))
                raise LoadFailed(
                    f"Error processing tar file(exit status 1): write /{first}: no space left on device"
                )
            if "manifest.json" not in files:
                _missing("repositories")
            return [_read_image(entry, read) for entry in json.loads(read("manifest.json"))]
    except (tarfile.TarError, EOFError, gzip.BadGzipFile):
        raise LoadFailed("Error processing tar file(exit status 1): unexpected EOF") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LoadFailed(f"invalid manifest or configuration: {error}") from None


def _missing(name: str) -> NoReturn:
    folder = f"/var/lib/docker/tmp/docker-import-{secrets.randbelow(10**10)}"
    raise LoadFailed(f"open {folder}/{name}: no such file or directory")


def _read_image(entry: dict[str, Any], read: Any) -> tuple[str, dict[str, Any]]:
    config_bytes = read(entry["Config"])
    config = json.loads(config_bytes)
    diff_ids = config["rootfs"]["diff_ids"]
    if len(diff_ids) != len(entry["Layers"]):
        raise LoadFailed(
            f"invalid manifest, layers length mismatch: expected {len(entry['Layers'])}, got {len(diff_ids)}"
        )
    paths: dict[str, list[Any]] = {"/": ["dir", 0, 0, 0o755]}
    size, passwd = 0, ""
    for number, (name, expected) in enumerate(zip(entry["Layers"], diff_ids, strict=True)):
        layer = _unpacked(read(name))
        actual = f"sha256:{hashlib.sha256(layer).hexdigest()}"
        if actual != expected:
            raise LoadFailed(f'invalid diffID for layer {number}: expected "{expected}", got "{actual}"')
        with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
            for member in tar:
                path = posixpath.normpath(f"/{member.name}")
                kind = "dir" if member.isdir() else "file"
                paths[path] = [kind, member.uid, member.gid, member.mode]
                size += member.size
                if path == "/etc/passwd" and (content := tar.extractfile(member)) is not None:
                    passwd = content.read().decode(errors="replace")
    tags = [full_name(tag) for tag in entry.get("RepoTags") or []]
    image_id = f"sha256:{hashlib.sha256(config_bytes).hexdigest()}"
    return image_id, {"tags": tags, "config": config, "size": size, "paths": paths, "passwd": passwd}


def _unpacked(layer: bytes) -> bytes:
    if layer[:2] != b"\x1f\x8b":
        return layer
    with gzip.GzipFile(fileobj=io.BytesIO(layer)) as file:
        unpacked = file.read(LAYER_LIMIT + 1)
    if len(unpacked) > LAYER_LIMIT:
        raise LoadFailed("layer too large")
    return unpacked
