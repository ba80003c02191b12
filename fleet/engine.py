"""A Docker Engine on a server, spoken to over its SSH connection with the Docker SDK.

`open_engine` gives an SDK client whose HTTP requests travel on channels of the connection. What the Engine or the host
does wrong comes out as the SDK's own exceptions; wrap a piece of work in `engine_errors()` to get `RemoteError`s.
"""

import queue
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from shlex import quote
from typing import Any

import docker.errors
import requests
import urllib3
from docker import APIClient
from docker.constants import DEFAULT_DOCKER_API_VERSION
from docker.utils.proxy import ProxyConfig
from docker.utils.utils import version_lt
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool

from fleet.engine_errors import EngineError, explain
from fleet.facts import DOCKER_SOCKET
from fleet.ssh import ChannelStream, Connection, ForwardingRefused, RemoteError, TimedOut

OLDEST_API = "1.41"
"""Docker 20.10, the oldest Engine that the panel supports."""

DEFAULT_TIMEOUT = 30.0


def socket_check(docker_socket: str) -> str:
    """A script that prints in one word why no channel to the Docker socket was opened: `absent`, `forbidden`, `deaf`
    (nobody listens on it), `command` (forwarding is forbidden, but a docker command is there), `nothing` (not even that).
    """
    # /var/run is mostly a link to /run, and the kernel lists a socket under the name it was bound to: the file name has
    # to do.
    return rf"""set -- {quote(docker_socket)}
if [ ! -S "$1" ]; then echo absent
elif [ ! -r "$1" ] || [ ! -w "$1" ]; then echo forbidden
elif [ -r /proc/net/unix ] && command -v grep >/dev/null && ! grep -q "/${{1##*/}}\$" /proc/net/unix; then echo deaf
elif command -v docker >/dev/null 2>&1; then echo command
else echo nothing
fi
"""


@contextmanager
def engine_errors() -> Iterator[None]:
    """Turns what the SDK and HTTP raise inside into `RemoteError`s: EngineError, TimedOut, Unreachable."""
    try:
        yield
    except RemoteError:
        raise
    except docker.errors.APIError as error:
        raise explain(str(error.explanation or error), error.status_code) from error
    except (requests.Timeout, TimeoutError) as error:
        raise TimedOut(detail=str(error)) from error
    except (requests.exceptions.JSONDecodeError, docker.errors.StreamParseError) as error:
        raise EngineError(code="garbage", detail=str(error)) from error
    except (
        requests.ConnectionError,
        requests.exceptions.ChunkedEncodingError,
        urllib3.exceptions.HTTPError,
    ) as error:
        raise EngineError(code="daemon_down", detail=str(error)) from error
    except (ConnectionError, EOFError) as error:
        raise EngineError(code="daemon_down", detail=str(error)) from error
    except docker.errors.DockerException as error:
        raise EngineError(detail=str(error)) from error


class _Route:
    """How the Docker socket is reached: a channel straight to it or, where the host forbids that, the docker command."""

    def __init__(self, connection: Connection, docker_socket: str) -> None:
        self.connection = connection
        self._docker_socket = docker_socket
        self.by_command = False

    def open(self, timeout: float) -> ChannelStream:
        if not self.by_command:
            try:
                return self.connection.open_unix(self._docker_socket, timeout)
            except ForwardingRefused as refusal:
                self._find_reason(refusal, timeout)
            self.by_command = True
        command = f"docker -H {quote('unix://' + self._docker_socket)} system dial-stdio"
        return self.connection.open_session_command(command, timeout)

    def _find_reason(self, refusal: ForwardingRefused, timeout: float) -> None:
        """Returns when the docker command can help; otherwise raises what is wrong."""
        answer = self.connection.run(socket_check(self._docker_socket), timeout=timeout)
        word = answer.stdout.decode(errors="replace").strip()
        code = {"absent": "no_docker", "forbidden": "no_permission", "deaf": "daemon_down"}.get(word)
        if code:
            raise EngineError(code=code, detail=refusal.detail)
        if word == "command":
            return
        if refusal.is_unknown:
            program = self.connection.server_program
            raise ForwardingRefused(code="forwarding_unknown", detail=refusal.detail, program=program)
        raise ForwardingRefused(code="forwarding_forbidden", detail=refusal.detail)


class _EngineConnection(HTTPConnection):
    """An HTTP connection whose socket is an SSH channel."""

    sock: ChannelStream | None

    def __init__(self, route: _Route) -> None:
        super().__init__("docker", blocksize=32 * 1024 - 64)  # what one SSH packet carries
        self._route = route

    def connect(self) -> None:
        self.sock = self._route.open(float(self.timeout or DEFAULT_TIMEOUT))

    @property
    def is_connected(self) -> bool:
        # urllib3's own look at a socket's descriptor would cost a pipe for every channel.
        return self.sock is not None and self.sock.is_open


class _EnginePool(HTTPConnectionPool):
    def __init__(self, route: _Route) -> None:
        super().__init__("docker", maxsize=4)
        self._route = route
        route.connection.add_keeper(self)

    def release_idle(self) -> None:
        """Close the streams that only wait for a next request and take a session meanwhile."""
        waiting, kept = self.pool, []
        if waiting is None or not self._route.by_command:  # closed, or of streams that take no session
            return
        with suppress(queue.Empty):
            while True:
                kept.append(waiting.get_nowait())
        for connection in reversed(kept):
            if connection is not None:
                connection.close()
            with suppress(queue.Full):
                waiting.put_nowait(connection)

    def _new_conn(self) -> _EngineConnection:
        return _EngineConnection(self._route)


class _EngineAdapter(HTTPAdapter):
    def __init__(self, route: _Route) -> None:
        super().__init__()
        self._pool = _EnginePool(route)

    def get_connection_with_tls_context(self, *args: object, **kwargs: object) -> HTTPConnectionPool:
        return self._pool

    def request_url(self, request: requests.PreparedRequest, proxies: Mapping[str, str] | None) -> str:
        return str(request.path_url)

    def close(self) -> None:
        super().close()
        self._pool.close()


class Engine(APIClient):
    """An SDK client (`docker.APIClient`) of the Engine behind a connection. Made by `open_engine`.

    `timeout` (seconds, settable at any time) limits every single wait for the Engine, streams included; when it passes,
    the connection is dropped and TimedOut raised.
    """

    def __init__(self, connection: Connection, docker_socket: str, timeout: float) -> None:
        super().__init__(base_url="tcp://docker:1", version=OLDEST_API, timeout=timeout)  # type: ignore[arg-type]
        self.connection = connection
        self.docker_socket = docker_socket
        self.architecture = ""
        self.engine_version = ""
        self.trust_env = False  # proxies and netrc of this machine mean nothing on the other end of a channel
        self._general_configs: dict[str, Any] = {}
        self._proxy_configs = ProxyConfig()
        self._custom_adapter = _EngineAdapter(_Route(connection, docker_socket))
        self.adapters.clear()
        self.mount("http+docker://", self._custom_adapter)
        self.base_url = "http+docker://ssh"

    def negotiate(self) -> None:
        """Takes the newest API version that both sides speak, and notes the machine's `architecture` by Docker's name and the Engine's
        own version ("" when untold). Raises EngineError (too_old, podman, garbage)."""
        try:
            answer = self.version(api_version=False)
            names = {str(component.get("Name")) for component in answer.get("Components") or []}
            if any("podman" in name.lower() for name in names):
                raise EngineError(code="podman", detail=", ".join(sorted(names)))
            self.architecture = str(answer.get("Arch") or "")
            self.engine_version = str(answer.get("Version") or "")
            newest, oldest = str(answer["ApiVersion"]), str(answer.get("MinAPIVersion") or OLDEST_API)
            if version_lt(newest, OLDEST_API):
                raise EngineError(code="too_old", detail=f"API {newest}")
            chosen = DEFAULT_DOCKER_API_VERSION if version_lt(DEFAULT_DOCKER_API_VERSION, newest) else newest
            self._version = oldest if version_lt(chosen, oldest) else chosen
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise EngineError(code="garbage", detail=str(error)) from error

    @property
    def agreed(self) -> tuple[str, str, str]:
        """API version, architecture and the Engine's own version, for other clients of the same Engine."""
        return self._version, self.architecture, self.engine_version

    # Where the SDK streams an answer, such as files, it would take away the limit on waiting from its own kind of socket.

    def _get_raw_response_socket(self, response: requests.Response) -> None:
        pass

    def _disable_socket_timeout(self, socket: object) -> None:
        pass


def open_engine(
    connection: Connection,
    docker_socket: str = DOCKER_SOCKET,
    timeout: float = DEFAULT_TIMEOUT,
    *,
    agreed: tuple[str, str, str] | None = None,
) -> Engine:
    """A client of the Engine on that host, its API version agreed on, or taken from `agreed` (another client's).

    Raises EngineError (no_docker, no_permission, daemon_down, too_old, podman, garbage), ForwardingRefused, TimedOut, Unreachable.
    """
    engine = Engine(connection, docker_socket, timeout)
    if agreed is not None:
        engine._version, engine.architecture, engine.engine_version = agreed
        return engine
    with engine_errors():
        engine.negotiate()
    return engine
