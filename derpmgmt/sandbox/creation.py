"""What the Engine looks at when a container is created: the body's types and values, and the mounts in it."""

from __future__ import annotations

import json
import posixpath
import re
from typing import Any

from derpmgmt.sandbox.containers import signal_name
from derpmgmt.sandbox.refusals import Refusal
from derpmgmt.sandbox.volumes import check_name

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_CAPABILITIES = frozenset(
    [
        "ALL",
        "AUDIT_CONTROL",
        "AUDIT_READ",
        "AUDIT_WRITE",
        "BLOCK_SUSPEND",
        "BPF",
        "CHECKPOINT_RESTORE",
        "CHOWN",
        "DAC_OVERRIDE",
        "DAC_READ_SEARCH",
        "FOWNER",
        "FSETID",
        "IPC_LOCK",
        "IPC_OWNER",
        "KILL",
        "LEASE",
        "LINUX_IMMUTABLE",
        "MAC_ADMIN",
        "MAC_OVERRIDE",
        "MKNOD",
        "NET_ADMIN",
        "NET_BIND_SERVICE",
        "NET_BROADCAST",
        "NET_RAW",
        "PERFMON",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_ADMIN",
        "SYS_BOOT",
        "SYS_CHROOT",
        "SYSLOG",
        "SYS_MODULE",
        "SYS_NICE",
        "SYS_PACCT",
        "SYS_PTRACE",
        "SYS_RAWIO",
        "SYS_RESOURCE",
        "SYS_TIME",
        "SYS_TTY_CONFIG",
        "WAKE_ALARM",
    ]
)
_LOG_OPTIONS = frozenset(
    [
        "max-size",
        "max-file",
        "compress",
        "labels",
        "labels-regex",
        "env",
        "env-regex",
        "tag",
        "mode",
        "max-buffer-size",
    ]
)
_TMPFS_OPTIONS = frozenset(["size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol"])
_SMALLEST_MEMORY = 6 * 1024 * 1024
# Field → Python type, and how the Engine's JSON reader names the Go type that it wanted.
_CONFIG_TYPES: dict[str, tuple[type, str]] = {
    "Image": (str, "string"),
    "User": (str, "string"),
    "WorkingDir": (str, "string"),
    "StopSignal": (str, "string"),
    "Tty": (bool, "bool"),
    "Labels": (dict, "map[string]string"),
    "ExposedPorts": (dict, "nat.PortSet"),
    "Volumes": (dict, "map[string]struct {}"),
    "Env": (list, "[]string"),
    "HostConfig": (dict, "container.HostConfig"),
}
_HOST_TYPES: dict[str, tuple[type, str]] = {
    "Memory": (int, "int64"),
    "MemorySwap": (int, "int64"),
    "NanoCpus": (int, "int64"),
    "PidsLimit": (int, "int64"),
    "NetworkMode": (str, "container.NetworkMode"),
    "ReadonlyRootfs": (bool, "bool"),
    "Privileged": (bool, "bool"),
    "AutoRemove": (bool, "bool"),
    "PortBindings": (dict, "nat.PortMap"),
    "RestartPolicy": (dict, "container.RestartPolicy"),
    "LogConfig": (dict, "container.LogConfig"),
    "Tmpfs": (dict, "map[string]string"),
    "Sysctls": (dict, "map[string]string"),
    "Binds": (list, "[]string"),
    "Mounts": (list, "[]mount.Mount"),
    "SecurityOpt": (list, "[]string"),
}


def read_json(body: bytes) -> dict[str, Any]:
    """A request's JSON object. Raises Refusal with the words of Go's decoder."""
    if not body.strip():
        raise Refusal(500, "EOF")
    try:
        value = json.loads(body)
    except ValueError as error:
        words = (
            "unexpected EOF"
            if "Expecting property name" in str(error) or body[:1] == b"{"
            else f"invalid JSON: {error}"
        )
        raise Refusal(500, words) from None
    if not isinstance(value, dict):
        raise Refusal(
            500,
            f"json: cannot unmarshal {_kind(value)} into Go value of type runconfig.ContainerConfigWrapper",
        )
    return value


def check_container_name(name: str) -> None:
    """Raises Refusal."""
    if not _NAME.fullmatch(name):
        raise Refusal(400, f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")


def check_body(body: dict[str, Any]) -> dict[str, Any]:
    """Check a create request's types and values; returns its HostConfig. Raises Refusal."""
    _check_types(body, _CONFIG_TYPES, "ContainerConfigWrapper")
    for name in ("Cmd", "Entrypoint"):
        _check_strings(body, name, "ContainerConfigWrapper")
    host: dict[str, Any] = body.get("HostConfig") or {}
    _check_types(host, _HOST_TYPES, "HostConfig.HostConfig")
    for name in ("CapAdd", "CapDrop"):
        _check_strings(host, name, "HostConfig.HostConfig")
        for capability in host.get(name) or []:
            if capability.upper().removeprefix("CAP_") not in _CAPABILITIES:
                raise Refusal(
                    400,
                    f'invalid {name}: unknown capability: "CAP_{capability.upper().removeprefix("CAP_")}"',
                )
    for target, options in (host.get("Tmpfs") or {}).items():
        if not isinstance(options, str):
            words = "into Go struct field HostConfig.HostConfig.Tmpfs of type string"
            raise Refusal(500, f"json: cannot unmarshal {_kind(options)} {words}")
        _check_target(target, 400)
    signal_name(body.get("StopSignal") or "")
    _check_restart_policy(host)
    _check_logging(host)
    if 0 < (host.get("Memory") or 0) < _SMALLEST_MEMORY:
        raise Refusal(400, "Minimum memory limit allowed is 6MB")
    for option in host.get("SecurityOpt") or []:
        name = re.split("[=:]", option)[0]
        if option != "no-new-privileges" and (
            name == option or name not in ("no-new-privileges", "label", "apparmor", "seccomp", "systempaths")
        ):
            raise Refusal(500, f'invalid --security-opt 1: "{option}"')
    for port, bindings in (host.get("PortBindings") or {}).items():
        for value in (
            port.partition("/")[0],
            *((binding.get("HostPort") or "0") for binding in bindings or []),
        ):
            if not (value.isdecimal() and int(value) <= 65535):
                raise Refusal(400, f'invalid port specification: "{value}"')
    return host


def check_tmpfs(host: dict[str, Any]) -> None:
    """What is looked at only when a container starts: the options of its tmpfs (docker/pkg/mount). Raises Refusal."""
    for options in (host.get("Tmpfs") or {}).values():
        for option in options.split(",") if options else ():
            name, equals, value = option.partition("=")
            if equals and name not in _TMPFS_OPTIONS:
                raise Refusal(500, f'invalid tmpfs option ["{name}" "{value}"]')


def read_mounts(body: dict[str, Any], host: dict[str, Any]) -> list[dict[str, Any]]:
    """The volumes that a container mounts, as ``inspect`` shows them, without driver and source. A name of "" asks for an
    anonymous volume. Raises Refusal for what the Engine refuses, and for folders of the host, which the sandbox has none of."""
    mounts = [_read_bind(bind) for bind in host.get("Binds") or []]
    for mount in host.get("Mounts") or []:
        kind, target = mount.get("Type"), mount.get("Target") or ""
        if kind not in ("volume", "tmpfs", "bind"):
            raise Refusal(400, f'invalid mount config for type "{kind}": mount type unknown')
        if not target:
            raise Refusal(400, f'invalid mount config for type "{kind}": field Target must not be empty')
        if kind == "bind":
            raise _no_host_folders()
        if kind == "volume":
            mounts.append(_mount(mount.get("Source") or "", target, writable=not mount.get("ReadOnly")))
    mounts += [_mount("", target, writable=True) for target in body.get("Volumes") or {}]
    seen = {posixpath.normpath(target) for target in host.get("Tmpfs") or {}}
    for mount in mounts:
        if mount["Destination"] in seen:
            raise Refusal(400, f"Duplicate mount point: {mount['Destination']}")
        seen.add(mount["Destination"])
        if mount["Name"]:
            check_name(mount["Name"])
    return mounts


def _read_bind(bind: str) -> dict[str, Any]:
    source, _, rest = bind.partition(":")
    if not rest:
        source, rest = "", source
    target, _, mode = rest.partition(":")
    for word in mode.split(",") if mode else ():
        if word not in ("rw", "ro", "z", "Z", "nocopy"):
            raise Refusal(500, f"invalid mode: {mode}")
    words = f"invalid volume specification: '{bind}': invalid mount config for type \"volume\": "
    _check_target(target, 500, words)
    if source.startswith("/"):
        raise _no_host_folders()
    return _mount(source, target, writable="ro" not in mode.split(","))


def _check_target(target: str, status: int, words: str = "") -> None:
    """Raises Refusal for where nothing can be mounted; ``words``: what its message begins with."""
    if not target.startswith("/"):
        raise Refusal(status, f"{words}invalid mount path: '{target}' mount path must be absolute")
    if posixpath.normpath(target) == "/":
        raise Refusal(status, f"{words}invalid specification: destination can't be '/'")


def _mount(name: str, target: str, *, writable: bool) -> dict[str, Any]:
    target = posixpath.normpath(target)
    return {
        "Type": "volume",
        "Name": name,
        "Destination": target,
        "Mode": "z",
        "RW": writable,
        "Propagation": "",
    }


def _no_host_folders() -> Refusal:
    return Refusal(501, "this server is a sandbox: it mounts volumes only, no folders of its machine")


def _check_restart_policy(host: dict[str, Any]) -> None:
    policy = host.get("RestartPolicy") or {}
    name, retries = policy.get("Name") or "", policy.get("MaximumRetryCount") or 0
    if name not in ("", "no", "always", "unless-stopped", "on-failure"):
        raise Refusal(400, f"invalid restart policy '{name}'")
    if name != "on-failure" and retries:
        raise Refusal(400, f"maximum retry count cannot be used with restart policy '{name}'")
    if host.get("AutoRemove") and name not in ("", "no"):
        raise Refusal(400, "can't create 'AutoRemove' container with restart policy")


def _check_logging(host: dict[str, Any]) -> None:
    config = host.get("LogConfig") or {}
    driver = config.get("Type") or "json-file"
    if driver not in ("json-file", "local", "none"):
        raise Refusal(400, f'error looking up logging plugin {driver}: plugin "{driver}" not found')
    for option in config.get("Config") or {}:
        if option not in _LOG_OPTIONS:
            raise Refusal(400, f"unknown log opt '{option}' for {driver} log driver")


def _check_types(value: dict[str, Any], types: dict[str, tuple[type, str]], where: str) -> None:
    for name, (kind, go_type) in types.items():
        field = value.get(name)
        if field is not None and (not isinstance(field, kind) or (kind is int and isinstance(field, bool))):
            raise Refusal(
                500,
                f"json: cannot unmarshal {_kind(field)} into Go struct field {where}.{name} of type {go_type}",
            )


def _check_strings(value: dict[str, Any], name: str, where: str) -> None:
    """A list of words, or one word for a list of one (api/types/strslice)."""
    field = value.get(name)
    for item in field if isinstance(field, list) else [field]:
        if item is not None and not isinstance(item, str):
            raise Refusal(
                500,
                f"json: cannot unmarshal {_kind(item)} into Go struct field {where}.{name} of type string",
            )
    if isinstance(field, str):
        value[name] = [field]


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "bool"
    return {str: "string", int: "number", float: "number", list: "array", dict: "object"}.get(
        type(value), "null"
    )
