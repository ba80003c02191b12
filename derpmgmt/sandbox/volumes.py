"""The volumes of one server: real files under its state, and who owns them in the eyes of its containers.

The sandbox runs without root, so the files on disk all belong to whoever runs it, mode 0600. Owner and mode that a host would
have given them are kept beside, because they decide whether a container's user can read them.
"""

from __future__ import annotations

import errno
import io
import os
import posixpath
import re
import shutil
import tarfile
from pathlib import Path
from typing import Any

from derpmgmt.sandbox.refusals import Refusal
from derpmgmt.sandbox.state import State, write_private

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
ROOT_ENTRY = ["dir", 0, 0, 0o755]


def check_name(name: str) -> None:
    """Raises Refusal for a name that the Engine's local driver does not take."""
    if not _NAME.fullmatch(name):
        raise Refusal(
            400,
            f'create {name}: "{name}" includes invalid characters for a local volume name, only "[a-zA-Z0-9][a-zA-Z0-9_.-]"'
            " are allowed. If you intended to pass a host directory, use absolute path",
        )


class Volumes:
    """Kept in the state by name: ``created``, ``labels``, ``anonymous`` and ``entries``: path in the volume → [kind, uid, gid,
    mode], "" being its top."""

    def __init__(self, state: State, folder: Path) -> None:
        self._state = state
        self._folder = folder
        self.folder = str(folder)
        self._all: dict[str, dict[str, Any]] = state.volumes

    def create(self, name: str, labels: dict[str, str] | None, now: str, *, anonymous: bool = False) -> None:
        """Nothing happens to a volume that exists, whatever its labels. Raises Refusal for a bad name."""
        check_name(name)
        if name not in self._all:
            entries = {"": list(ROOT_ENTRY)}
            self._all[name] = {"created": now, "labels": labels, "anonymous": anonymous, "entries": entries}
            (self._folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)
            self._state.save()

    def inspect(self, name: str) -> dict[str, Any]:
        """Raises Refusal when there is none."""
        volume = self._all.get(name)
        if volume is None:
            raise Refusal(404, f"get {name}: no such volume")
        return {
            "CreatedAt": volume["created"],
            "Driver": "local",
            "Labels": volume["labels"],
            "Mountpoint": str(self._folder / name),
            "Name": name,
            "Options": None,
            "Scope": "local",
        }

    def select(self, filters: dict[str, list[str]]) -> dict[str, Any]:
        """Raises Refusal for a filter that the Engine does not know."""
        for key in filters:
            if key not in ("name", "label", "driver", "dangling"):
                raise Refusal(400, f"Invalid filter '{key}'")
        found = []
        for name, volume in self._all.items():
            labels = volume["labels"] or {}
            wanted = [label.partition("=") for label in filters.get("label", ())]
            if any(key not in labels or (equals and labels[key] != value) for key, equals, value in wanted):
                continue
            if "name" in filters and not any(part in name for part in filters["name"]):
                continue
            found.append(self.inspect(name))
        return {"Volumes": found, "Warnings": None}

    def delete(self, name: str, users: list[str]) -> None:
        """``users``: ids of the containers that mount it. Raises Refusal when there is none or it is in use."""
        self.inspect(name)
        if users:
            raise Refusal(409, f"remove {name}: volume is in use - [{', '.join(users)}]")
        del self._all[name]
        shutil.rmtree(self._folder / name, ignore_errors=True)
        self._state.save()

    def is_anonymous(self, name: str) -> bool:
        return bool(self._all.get(name, {}).get("anonymous"))

    def kind(self, name: str, path: str) -> str:
        """ "file", "dir" or "" for nothing; ``path`` relative to the volume, "" being its top."""
        entry = self._all[name]["entries"].get(path)
        return str(entry[0]) if entry else ""

    def read(self, name: str, path: str, uid: int, gid: int, *, privileged: bool) -> bytes:
        """What a process with these ids reads there. Raises FileNotFoundError, PermissionError, IsADirectoryError."""
        entries = self._all[name]["entries"]
        above = path
        while above:
            above = posixpath.dirname(above)
            if above in entries and not (privileged or _may(entries[above], uid, gid, 0o1)):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        if path not in entries:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        if entries[path][0] == "dir":
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not (privileged or _may(entries[path], uid, gid, 0o4)):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return (self._folder / name / path).read_bytes()

    def unpack(self, name: str, inside: str, mount: str, archive: bytes, *, disk_full: bool) -> None:
        """Extract a tar archive into a folder of the volume; ``mount``: where a container sees the volume.

        Raises Refusal, in the Engine's words, for what is no archive, leads out of the folder, or finds no room.
        """
        entries = self._all[name]["entries"]
        shown = posixpath.join(mount, inside) if inside else mount
        try:
            with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
                for member in tar:
                    path = posixpath.normpath(posixpath.join("/", inside, member.name))
                    if posixpath.normpath(posixpath.join(inside or ".", member.name)).startswith(".."):
                        raise _tar_refusal(f'"{member.name}" is outside of "{shown}"')
                    relative = path.lstrip("/")
                    if member.isdir():
                        (self._folder / name / relative).mkdir(mode=0o700, parents=True, exist_ok=True)
                    elif member.isfile():
                        if disk_full:
                            raise _tar_refusal(
                                f"write {posixpath.join(mount, relative)}: no space left on device"
                            )
                        content = tar.extractfile(member)
                        assert content is not None
                        target = self._folder / name / relative
                        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                        write_private(target, content.read())
                    else:
                        raise _tar_refusal("the sandbox keeps only files and folders")
                    _add_parents(entries, relative)
                    kind = "dir" if member.isdir() else "file"
                    entries[relative] = [kind, member.uid, member.gid, member.mode & 0o7777]
        except (tarfile.TarError, EOFError):
            raise _tar_refusal("unexpected EOF") from None
        finally:
            self._state.save()

    def pack(self, name: str, path: str) -> tuple[bytes, dict[str, Any]]:
        """A file or folder as a tar archive, and its stat. Raises KeyError when there is nothing."""
        entries = self._all[name]["entries"]
        kind, _, _, mode = entries[path]
        base = posixpath.basename(path) or name
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for item in sorted(entries):
                if item != path and not item.startswith(f"{path}/" if path else ""):
                    continue
                member = tarfile.TarInfo(
                    posixpath.join(base, posixpath.relpath(item or ".", path or ".")).rstrip("/.")
                )
                item_kind, member.uid, member.gid, member.mode = entries[item]
                if item_kind == "dir":
                    member.type = tarfile.DIRTYPE
                    tar.addfile(member)
                else:
                    content = (self._folder / name / item).read_bytes()
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        # os.FileMode of Go: bit 31 marks a folder.
        stat = {"name": base, "size": 0, "mode": mode | (1 << 31 if kind == "dir" else 0), "linkTarget": ""}
        return buffer.getvalue(), stat


def _may(entry: list[Any], uid: int, gid: int, bit: int) -> bool:
    """Whether the permission bits of an entry give this right (4 read, 1 enter) to a process with these ids."""
    _, owner, group, mode = entry
    shift = 6 if uid == owner else 3 if gid == group else 0
    return bool(mode >> shift & bit)


def _add_parents(entries: dict[str, list[Any]], path: str) -> None:
    while path := posixpath.dirname(path):
        entries.setdefault(path, list(ROOT_ENTRY))


def _tar_refusal(reason: str) -> Refusal:
    return Refusal(500, f"Error processing tar file(exit status 1): {reason}")
