"""Talking to one server: a queue's kept connection, and what came of it written to the server's row."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

from derpmgmt.lib.queue import serving
from fleet import identity, services
from fleet.engine import Engine, open_engine
from fleet.engine_errors import EngineError
from fleet.machine import Machine, SameMachine, read_machine
from fleet.models import Server
from fleet.ssh import Connection, ConnectionPool, Endpoint, RemoteError, TimedOut, Unreachable

# One call to an Engine may take this long; starting a container on a busy host takes seconds, a dead host says nothing.
ENGINE_SECONDS = 30.0
# Connecting and signing in over a slow line.
SSH_SECONDS = 10.0
# A connection leads to one machine, but the Engine on it may be made anew, or replaced by another version, meanwhile.
KNOWN_SECONDS = 60.0
# What an Engine's error says when there is no Engine to be asked: as when it is missed at the beginning.
_NO_ENGINE = {"daemon_down", "no_docker", "no_permission", "too_old", "podman"}


@cache
def _pool_of(pid: int, queue: str) -> ConnectionPool:
    # By process: a connection that a forked child shares with its parent would mix up both. By queue: what hangs in one, or is
    # dropped by it, must not hold up or break another's work on the same server.
    return ConnectionPool(timeout=SSH_SECONDS)


def pool() -> ConnectionPool:
    """The connections that are kept for the queue that this thread serves."""
    return _pool_of(os.getpid(), serving.get())


def endpoint_of(server: Server) -> Endpoint:
    """How the panel signs in at `server`."""
    return Endpoint(
        host=server.ssh_address,
        port=server.ssh_port,
        user=server.credential.username,
        host_key=server.host_key,
        private_key=server.credential.private_key,
        password=server.credential.password,
    )


@dataclass(frozen=True)
class Contact:
    """A server that answers: its SSH connection and its Docker Engine; how long it took to connect, where this contact had to."""

    connection: Connection
    engine: Engine
    connect_seconds: float | None = None


@contextmanager
def contact(
    server: Server, *, ssh_seconds: float = SSH_SECONDS, engine_seconds: float = ENGINE_SECONDS
) -> Iterator[Contact]:
    """Reach `server` and record whether that went well; a connection that timed out or was lost is dropped.

    The machine is asked who it is before anything else. Raises `SameMachine` when another row in use has it, `RemoteError`
    for whatever the host did wrong.
    """
    endpoint = endpoint_of(server)
    begun = time.monotonic()
    try:
        connection = pool().get(endpoint, ssh_seconds)
        engine, machine = _open(server, connection, engine_seconds)
        try:
            _make_sure_whose(server, machine)
        except RemoteError:
            engine.close()
            raise
    except RemoteError as error:
        pool().drop(endpoint)
        services.record_failed_contact(server_pk=server.pk, error=error)
        raise
    try:
        try:
            yield Contact(
                connection, engine, connection.opening_seconds if connection.opened_at >= begun else None
            )
        except EngineError as error:
            connection.forget()
            if error.code == "daemon_down" and not connection.ping():
                # Not the Engine went away but the whole server: only that explains both.
                raise Unreachable(code="lost", detail=error.detail) from error
            raise
    except SameMachine as error:
        # What stands there is another row's whose machine nobody has read, so that it could not be known before.
        identity.forget_machine(server_pk=server.pk)
        services.record_failed_contact(server_pk=server.pk, error=error)
        raise
    except (TimedOut, Unreachable) as error:
        pool().drop(endpoint)
        services.record_failed_contact(server_pk=server.pk, error=error)
        raise
    except EngineError as error:
        if error.code in _NO_ENGINE:
            services.record_failed_contact(server_pk=server.pk, error=error)
        else:
            services.record_contact(server_pk=server.pk)
        raise
    except Exception:
        services.record_contact(server_pk=server.pk)
        raise
    else:
        # Not before: a server that takes the connection and then hangs would be well again with each try.
        services.record_contact(server_pk=server.pk)
    finally:
        engine.close()


@contextmanager
def visit_as_guest(server: Server) -> Iterator[Contact]:
    """Reach the machine that `server` leads to though another row has it, to take away what is the row's own.

    Nothing is recorded. Raises `RemoteError`.
    """
    connection = pool().get(endpoint_of(server), SSH_SECONDS)
    engine = open_engine(connection, server.docker_socket, ENGINE_SECONDS)
    try:
        yield Contact(connection, engine)
    finally:
        engine.close()


def _make_sure_whose(server: Server, machine: Machine) -> None:
    """Have the row take the machine that it leads to. Raises `SameMachine`, else RemoteError."""
    if identity.has_machine(server, machine):
        return
    for rival in identity.rivals_of(server, machine):
        # Readings of different days do not compare: one may have been started anew, its Engine made anew.
        if rival.boot_id == machine.boot_id or _is_now(rival, server, machine):
            raise SameMachine(server=rival.name)
    identity.take_machine(server=server, machine=machine)


def _is_now(rival: Server, server: Server, machine: Machine) -> bool:
    """Whether the rival's row leads to this machine at this moment. Raises `SameMachine` when nobody can tell."""
    endpoint = endpoint_of(rival)
    try:
        connection = pool().get(endpoint)
        engine = open_engine(connection, rival.docker_socket, SSH_SECONDS)
        try:
            return read_machine(connection, engine).is_same(machine)
        finally:
            engine.close()
    except RemoteError as error:
        pool().drop(endpoint)
        if identity.were_told_apart(server, machine, rival):
            return False
        raise SameMachine(
            SameMachine.unsure, code="same_machine_unsure", detail=error.detail, server=rival.name
        ) from error


def _open(server: Server, connection: Connection, engine_seconds: float) -> tuple[Engine, Machine]:
    """The server's Engine, and who the machine is: both are asked once in `KNOWN_SECONDS` on a connection that is kept."""
    socket = server.docker_socket
    if known := connection.recall(socket, KNOWN_SECONDS):
        agreed, machine = known
        return open_engine(connection, socket, engine_seconds, agreed=agreed), machine
    engine = open_engine(connection, socket, engine_seconds)
    try:
        machine = read_machine(connection, engine)
    except RemoteError:
        engine.close()
        raise
    connection.remember(socket, (engine.agreed, machine))
    return engine, machine
