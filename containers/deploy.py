"""Make one container on one Docker Engine match its spec; remove it; list what is ours there.

No rows here: what is on the host is read from labels and names, so a host can be put right whatever was forgotten.
Every function may be killed at any line and called again. Whatever the Engine refuses comes out as a RemoteError.
"""

import io
import tarfile
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from containers.gate import KIND_GATE, gate_labels, gate_name
from containers.image import LABEL_CONTENT, ImageArchive
from containers.problems import ContainerStopped
from containers.spec import (
    KIND_RELAY,
    LABEL_KIND,
    LABEL_PANEL,
    LABEL_RELAY,
    LABEL_SPEC,
    NETWORK,
    USER_ID,
    ContainerSpec,
    relay_labels,
    relay_name,
)
from fleet.engine import Engine, engine_errors
from fleet.engine_errors import EngineError, explain

SETTLE_SECONDS = 0.1
"""How long a container must have stayed up: derper and nginx read flags and files at once, and end when they dislike them."""
_BUSY_SECONDS = 10.0
# So long the network of a host is not asked for again.
_NETWORK_KNOWN_SECONDS = 60.0
LOG_LINES = 300

_COMPARED = ("Image", "Cmd", "User", "StopSignal", "Labels")
# Limits that a host's kernel may not know: the Engine then warns and keeps them unset.
_LIMITS = ("Memory", "MemorySwap", "PidsLimit")
_UNSET = (None, 0, -1)


@dataclass(frozen=True)
class Found:
    """A container of a panel's on a host, as its labels and the Engine's list tell; `relay_id` is 0 for the gate's.

    `state` is the Engine's word: created, running, paused, restarting, exited, removing or dead. `is_wired` is false
    when somebody renamed it or took it off the relays' network.
    """

    relay_id: int
    container_id: str
    name: str
    state: str
    spec_hash: str
    kind: str
    is_wired: bool


@dataclass(frozen=True)
class Standing:
    """What of a panel's stands on a host: the relays' containers, those of its gate."""

    relays: list[Found]
    gates: list[Found]


def read_panel(engine: Engine, panel_id: str) -> Standing:
    """Every container on the host that bears this panel's labels, by one call however many there are. Raises RemoteError."""
    with engine_errors():
        rows = engine.containers(all=True, filters={"label": [f"{LABEL_PANEL}={panel_id}"]})
    return Standing(
        relays=[_found(row) for row in rows if _relay_id(row) is not None],
        gates=[_found(row) for row in rows if row["Labels"].get(LABEL_KIND) == KIND_GATE],
    )


def read_ours(engine: Engine, panel_id: str) -> list[Found]:
    """Every relay's container on the host that bears this panel's labels, by one call. Raises RemoteError."""
    return read_panel(engine, panel_id).relays


def read_volumes(engine: Engine, panel_id: str) -> set[int]:
    """The ids of the relays that have a volume on the host, by one call. Raises RemoteError."""
    labels = [f"{LABEL_PANEL}={panel_id}", f"{LABEL_KIND}={KIND_RELAY}"]
    with engine_errors():
        rows = engine.volumes(filters={"label": labels})["Volumes"] or []
    return {relay_id for row in rows if (relay_id := _relay_id(row)) is not None}


def has_gate(engine: Engine, panel_id: str) -> bool:
    """Whether the panel's gate, or what is left of one, stands on the host. Raises RemoteError."""
    # The volume is made first and removed last.
    labels = [f"{name}={value}" for name, value in gate_labels(panel_id).items()]
    with engine_errors():
        return bool(engine.volumes(filters={"label": labels})["Volumes"])


def read_differences(engine: Engine, spec: ContainerSpec) -> list[str]:
    """What of the container is not as the spec says, by the names of the Engine API; empty when nothing.

    Reads the whole container, so it also sees what somebody changed by hand (`docker update`, `docker rename`,
    `docker network disconnect`), which the labels do not show. Whether it runs is not asked. A container that does
    not exist is an EngineError with code not_found.
    """
    with engine_errors():
        return _differences(engine.inspect_container(spec.container_name), spec)


def ensure_network(engine: Engine) -> None:
    """Make the bridge network that relays and gate stand on, unless it is there. Raises RemoteError."""
    try:
        with engine_errors():
            engine.inspect_network(NETWORK)
    except EngineError as error:
        if error.code != "not_found":
            raise
        with engine_errors():
            engine.create_network(
                NETWORK, driver="bridge", check_duplicate=True, labels={LABEL_KIND: "network"}
            )


def ensure_image(
    engine: Engine, archive: ImageArchive, on_progress: Callable[[int, int], None] | None = None
) -> bool:
    """Load the image unless the host has it; returns whether it was loaded.

    `on_progress(sent, total)` is told, in bytes, before each block is sent. Raises RemoteError; OSError when the
    archive itself cannot be read.
    """
    if _has_image(engine, archive):
        return False
    with _Upload(archive.path, on_progress) as upload, engine_errors():
        # The Engine answers 200 before it unpacks: what goes wrong then stands in the answer's lines.
        lines = list(engine.load_image(upload))
    if not _has_image(engine, archive):
        raise explain(" ".join(str(line["error"]) for line in lines if "error" in line) or "no such image")
    return True


def make_so(
    engine: Engine,
    spec: ContainerSpec,
    archive: ImageArchive,
    on_step: Callable[[str], None],
    on_progress: Callable[[int, int], None] | None = None,
    *,
    also: Mapping[str, bytes] | None = None,
    is_proven_next: bool = False,
    last_look: Callable[[], None] | None = None,
) -> bool:
    """Make the host run exactly this container; returns whether anything was done.

    Does nothing when it runs and nothing differs. One that was merely stopped is started. Anything else under its
    name or labels is removed, with its volume, and made anew. `on_step(name)` is called before each step begins:
    network, image, clean, volume, create, files, start, check. With `is_proven_next` the last is left to the caller, who has a
    packet carried meanwhile (`check_up`). `also` are files that a new container needs beside those
    of its spec; `last_look` is called before one that runs is removed (`halt`). Raises RemoteError; the caller then removes it, so that nothing half-made is left. `archive` must hold
    the image that the spec names (ValueError).
    """
    if archive.tag != spec.create_body["Image"]:
        raise ValueError("the archive holds another image than the spec names")
    rows = _rows_of(engine, spec.identity_labels)
    state = _matching_state(engine, spec, rows)
    if state == "running":
        return False
    try:
        # A container that was created but never started may lack its files; one that ran has them.
        if state != "exited":
            _create(engine, spec, archive, rows, on_step, on_progress, also or {}, last_look)
        on_step("start")
        with engine_errors():
            engine.start(spec.container_name)
    except EngineError:
        engine.connection.forget()  # what was there a moment ago may be what it misses
        raise
    if not is_proven_next:
        on_step("check")
        time.sleep(SETTLE_SECONDS)
        check_up(engine, spec)
    return True


def _create(
    engine: Engine,
    spec: ContainerSpec,
    archive: ImageArchive,
    rows: Collection[dict[str, Any]],
    on_step: Callable[[str], None],
    on_progress: Callable[[int, int], None] | None,
    also: Mapping[str, bytes],
    last_look: Callable[[], None] | None,
) -> None:
    """Make volume and container, with its files, in place of what is there under its labels (`rows`) or name."""
    on_step("network")
    known = (engine.docker_socket, NETWORK)
    if not engine.connection.recall(known, _NETWORK_KNOWN_SECONDS):
        ensure_network(engine)
        engine.connection.remember(known, True)
    on_step("image")
    ensure_image(engine, archive, on_progress)
    on_step("clean")
    halt(engine, rows, last_look)
    for row in rows:
        _remove(partial(engine.remove_container, row["Id"], v=True, force=True))
    # By somebody else's container, or by one that has lost its labels.
    unless_taken = partial(
        _unless_taken, partial(engine.remove_container, spec.container_name, v=True, force=True)
    )
    unless_taken(partial(_remove, partial(engine.remove_volume, spec.container_name)))
    on_step("volume")
    with engine_errors():
        engine.create_volume(spec.container_name, labels=spec.identity_labels)
    on_step("create")
    unless_taken(partial(engine.create_container_from_config, spec.create_body, spec.container_name))
    on_step("files")
    put_files(engine, spec.container_name, spec.files_dir, {**spec.files, **also})


def _unless_taken(free: Callable[[], object], call: Callable[[], object]) -> None:
    """Do `call`; where a container stands in its way, `free` removes that first."""
    try:
        with engine_errors():
            call()
    except EngineError as error:
        if error.code != "conflict":
            raise
        _remove(free)
        with engine_errors():
            call()


def runs_as(engine: Engine, spec: ContainerSpec) -> bool:
    """Whether the host runs exactly this container, so that nothing is to be done. Raises RemoteError."""
    return _matching_state(engine, spec, _rows_of(engine, spec.identity_labels)) == "running"


def check_up(engine: Engine, spec: ContainerSpec) -> None:
    """Raise ContainerStopped, with the end of its log, when the container does not run or had to be restarted.

    Also tells why a relay that `make_so` has just made does not answer. Raises RemoteError when the Engine cannot be
    asked.
    """
    with engine_errors():
        inspected = engine.inspect_container(spec.container_name)
        if inspected["State"]["Status"] == "running" and inspected["RestartCount"] == 0:
            return
        log = engine.logs(spec.container_name, tail=LOG_LINES)
    is_gate = spec.identity_labels[LABEL_KIND] == KIND_GATE
    raise ContainerStopped(ContainerStopped.gate_sentence if is_gate else "", detail=end_of(log))


def end_of(log: bytes) -> str:
    """The last lines of a container's log, which say why it ended."""
    # Indented lines are the list of flags that derper prints after an unknown one.
    lines = [line for line in log.decode(errors="replace").splitlines() if line and not line[0].isspace()]
    return "\n".join(lines[-5:])


def put_files(engine: Engine, container: str, folder: str, files: Mapping[str, bytes]) -> None:
    """Write files (absolute path → content) into a container's volume, readable by its own user alone. Raises RemoteError."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path, content in files.items():
            entry = tarfile.TarInfo(path.removeprefix(f"{folder}/"))
            entry.size, entry.mode, entry.uid, entry.gid = len(content), 0o600, USER_ID, USER_ID
            archive.addfile(entry, io.BytesIO(content))
    with engine_errors():
        engine.put_archive(container, folder, buffer.getvalue())


def read_file(engine: Engine, container: str, path: str) -> bytes:
    """One small file of a container's volume; empty when there is none. Raises RemoteError."""
    try:
        with engine_errors():
            chunks, _stat = engine.get_archive(container, path)
            whole = io.BytesIO(b"".join(chunks))
    except EngineError as error:
        if error.code == "not_found":
            return b""
        raise
    with tarfile.open(fileobj=whole) as archive:
        member = archive.next()
        content = archive.extractfile(member) if member else None
        return content.read() if content else b""


def remove_relay(
    engine: Engine, panel_id: str, relay_id: int, last_look: Callable[[], None] | None = None
) -> None:
    """Remove a relay's container, running or not, and its volume; what is not there is fine. Raises RemoteError.

    `last_look` is called before one that runs goes (`halt`).
    """
    labels = relay_labels(panel_id, relay_id)
    if last_look:
        halt(engine, _rows_of(engine, labels), last_look)
    _remove_all(engine, relay_name(panel_id, relay_id), labels)


def halt(engine: Engine, rows: Collection[dict[str, Any]], last_look: Callable[[], None] | None) -> None:
    """Let the containers of the Engine's list (`rows`) pass nothing on any more, and call `last_look`, which reads their counters.

    Once they are stopped their counters are gone, and while they run these go on. Does nothing where none runs. Those for which it raises
    go on.
    """
    running = [row["Id"] for row in rows if row["State"] == "running"]
    if last_look is None or not running:
        return
    _signal(engine, running, "SIGSTOP")
    try:
        last_look()
    except BaseException:
        _signal(engine, running, "SIGCONT")
        raise


def _signal(engine: Engine, containers: Iterable[str], name: str) -> None:
    for container in containers:
        with suppress(EngineError), engine_errors():  # gone meanwhile
            engine.kill(container, signal=name)


def remove_gate(engine: Engine, panel_id: str) -> None:
    """Remove the panel's gate, running or not, and its volume; what is not there is fine. Raises RemoteError."""
    _remove_all(engine, gate_name(panel_id), gate_labels(panel_id))


def read_standing(engine: Engine, panel_id: str) -> set[int]:
    """The ids of this panel's relays of which a container or a volume is on the host. Raises RemoteError."""
    present = {found.relay_id for found in read_ours(engine, panel_id) if found.kind == KIND_RELAY}
    return present | read_volumes(engine, panel_id)


def remove_panel(engine: Engine, panel_id: str) -> None:
    """Remove every container and volume of a panel, under whatever name; what is not there is fine. Raises RemoteError."""
    labels = {LABEL_PANEL: panel_id}
    for container in _rows_of(engine, labels):
        _remove(partial(engine.remove_container, container["Id"], v=True, force=True))
    with engine_errors():
        volumes = engine.volumes(filters={"label": [f"{LABEL_PANEL}={panel_id}"]})["Volumes"] or []
    for volume in volumes:
        _remove(partial(engine.remove_volume, volume["Name"]))


def remove_orphans(
    engine: Engine,
    panel_id: str,
    owned: Callable[[Collection[int]], Collection[int]],
    last_look: Callable[[], None] | None = None,
) -> list[int]:
    """Remove what is here of this panel's relays that are nobody's; returns their ids. Raises RemoteError.

    `owned` is asked, after the host was read, which of the relays that stand here are somebody's; `last_look` as for `remove_relay`.
    """
    standing = read_standing(engine, panel_id)
    orphans = sorted(standing - set(owned(standing)))
    for relay_id in orphans:
        remove_relay(engine, panel_id, relay_id, last_look)
    return orphans


def _remove_all(engine: Engine, name: str, labels: Mapping[str, str]) -> None:
    # By label as well as by name: somebody may have renamed the container.
    for container in {row["Id"] for row in _rows_of(engine, labels)} | {name}:
        _remove(partial(engine.remove_container, container, v=True, force=True))
    _remove(partial(engine.remove_volume, name))


def _rows_of(engine: Engine, labels: Mapping[str, str]) -> list[dict[str, Any]]:
    wanted = [f"{name}={value}" for name, value in labels.items()]
    with engine_errors():
        return list(engine.containers(all=True, filters={"label": wanted}))


def _relay_id(row: dict[str, Any]) -> int | None:
    text = (row["Labels"] or {}).get(LABEL_RELAY, "")
    return int(text) if text.isascii() and text.isdigit() else None


def _found(row: dict[str, Any]) -> Found:
    labels = row["Labels"]
    relay_id, panel_id = _relay_id(row), labels[LABEL_PANEL]
    own_name = gate_name(panel_id) if relay_id is None else relay_name(panel_id, relay_id)
    name = (row["Names"] or [""])[0].lstrip("/")  # one that is being removed may have lost its name
    networks = (row.get("NetworkSettings") or {}).get("Networks") or {}
    return Found(
        relay_id=relay_id or 0,
        container_id=row["Id"],
        name=name,
        state=row["State"],
        spec_hash=labels.get(LABEL_SPEC, ""),
        kind=labels.get(LABEL_KIND, ""),
        is_wired=name == own_name and NETWORK in networks,
    )


def _matching_state(engine: Engine, spec: ContainerSpec, rows: Sequence[dict[str, Any]]) -> str:
    """The state of the container when it is the only one under its labels (`rows`) and as the spec says, else an empty string."""
    if len(rows) != 1 or rows[0]["Labels"].get(LABEL_SPEC) != spec.spec_hash:
        return ""
    try:
        with engine_errors():
            inspected = engine.inspect_container(rows[0]["Id"])
    except EngineError as error:
        if error.code == "not_found":  # gone since the list was read
            return ""
        raise
    return "" if _differences(inspected, spec) else str(inspected["State"]["Status"])


def _differences(inspected: dict[str, Any], spec: ContainerSpec) -> list[str]:
    body, config, host = spec.create_body, inspected["Config"], inspected["HostConfig"]
    differing = [key for key in _COMPARED if key in body and not _agrees(config.get(key), body[key])]
    for key, wanted in body["HostConfig"].items():
        actual = host.get(key)
        if actual != wanted and not (key in _LIMITS and actual in _UNSET):
            differing.append(f"HostConfig.{key}")
    if inspected["Name"].lstrip("/") != spec.container_name:
        differing.append("Name")
    if NETWORK not in inspected["NetworkSettings"]["Networks"]:
        differing.append("NetworkSettings.Networks")
    return differing


def _agrees(actual: Any, wanted: Any) -> bool:
    if isinstance(wanted, dict):  # labels: the image adds its own
        return all((actual or {}).get(key) == value for key, value in wanted.items())
    return bool(actual == wanted)


def _has_image(engine: Engine, archive: ImageArchive) -> bool:
    try:
        with engine_errors():
            labels = engine.inspect_image(archive.tag)["Config"].get("Labels") or {}
    except EngineError as error:
        if error.code in ("not_found", "image_missing"):
            return False
        raise
    return bool(labels.get(LABEL_CONTENT) == archive.sha256)


def _remove(call: Callable[[], object]) -> None:
    """Remove something that may be gone already, or that the Engine is just removing for somebody else."""
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            with engine_errors():
                call()
            return
        except EngineError as error:
            if error.code == "not_found":
                return
            if error.code != "busy" or time.monotonic() > deadline:
                raise
        time.sleep(0.2)


class _Upload(io.FileIO):
    """A file that tells how far it has been read."""

    def __init__(self, path: Path, on_progress: Callable[[int, int], None] | None) -> None:
        super().__init__(path)
        self.on_progress = on_progress
        self.total = path.stat().st_size

    def read(self, size: int | None = -1, /) -> bytes:
        if self.on_progress:
            self.on_progress(self.tell(), self.total)
        return super().read(-1 if size is None else size) or b""
