"""Talking to one server: the process' kept connection, and what came of it written to the server's row."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

from fleet import services
from fleet.engine import Engine, EngineError, open_engine
from fleet.models import Server
from fleet.ssh import Connection, ConnectionPool, Endpoint, RemoteError, TimedOut, Unreachable

# One call to an Engine may take this long; starting a container on a busy host takes seconds, a dead host says nothing.
ENGINE_SECONDS = 30.0
# Connecting and signing in over a slow line.
SSH_SECONDS = 10.0


@cache
def _pool_of(pid: int) -> ConnectionPool:
    # By process: a connection that a forked child shares with its parent would mix up both.
    return ConnectionPool(timeout=SSH_SECONDS)


def pool() -> ConnectionPool:
    """The connections that this process keeps."""
    return _pool_of(os.getpid())


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
    """A server that answers: its SSH connection and its Docker Engine."""

    connection: Connection
    engine: Engine


@contextmanager
def contact(
    server: Server, *, ssh_seconds: float = SSH_SECONDS, engine_seconds: float = ENGINE_SECONDS
) -> Iterator[Contact]:
    """Reach `server` and record whether that went well; a connection that timed out or was lost is dropped.

    Raises `RemoteError`, whatever the host did wrong.
    """
    endpoint = endpoint_of(server)
    try:
        connection = pool().get(endpoint, ssh_seconds)
        engine = open_engine(connection, server.docker_socket, engine_seconds)
    except RemoteError as error:
        pool().drop(endpoint)
        services.record_failed_contact(server_pk=server.pk, error=error)
        raise
    try:
        try:
            yield Contact(connection, engine)
        except EngineError as error:
            if error.code == "daemon_down" and not connection.ping():
                # Not the Engine went away but the whole server: only that explains both.
                raise Unreachable(code="lost", detail=error.detail) from error
            raise
    except (TimedOut, Unreachable) as error:
        pool().drop(endpoint)
        services.record_failed_contact(server_pk=server.pk, error=error)
        raise
    except Exception:
        services.record_contact(server_pk=server.pk)
        raise
    else:
        # Not before: a server that takes the connection and then hangs would be well again with each try.
        services.record_contact(server_pk=server.pk)
    finally:
        engine.close()
