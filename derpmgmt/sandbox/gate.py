"""nginx as a container of the sandbox: a gate, which passes its relays' questions on to the panel.

It reads what the real program reads of a gate's files, and ends with its words and exit codes where that ends. It does what
the configuration says in ``containers.gate`` and nothing beyond: no other nginx can be played here.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import urlsplit

from derpmgmt.sandbox.asking import FAILURES, Answer, post
from derpmgmt.sandbox.http import Disconnect, Request, Response, serve
from derpmgmt.sandbox.nginx_conf import ConfError, Directive, read_conf, seconds, size_bytes, walk
from derpmgmt.sandbox.program import Exited, Surroundings
from derpmgmt.sandbox.wire import count_message

VERSION = "1.22.1"
_DEFAULT_CONF = "/etc/nginx/nginx.conf"
# What nginx leaves its new workers to come up before it ends the old ones (src/os/unix/ngx_process_cycle.c).
_RELOAD_SECONDS = 0.1
# About what the headers of a question or an answer take.
_HEAD_BYTES = 200
# What the panel's answer must not be for its word to count.
_AWAY = (500, 502, 503, 504)
_NO_FILE = (
    "error:80000002:system library::No such file or directory:calling fopen({path}, r)"
    " error:10000080:BIO routines::no such file error:05880002:x509 certificate routines::system lib"
)
_NO_CERTIFICATE = "error:05800088:x509 certificate routines::no certificate or crl found"


@dataclass(frozen=True)
class Settings:
    """What a gate's configuration says. ``location``: the paths that relays ask, with the relay in the group ``relay``;
    ``key``: finds the node key in a question; ``texts`` and ``patterns``: the list; ``tls``: None for an http panel."""

    port: int
    location: re.Pattern[str]
    methods: list[str]
    panel: str
    headers: dict[str, str] = field(repr=False)
    connect_seconds: float
    read_seconds: float
    body_limit: int
    key: re.Pattern[str]
    texts: dict[str, str]
    patterns: tuple[tuple[re.Pattern[str], str], ...]
    tls: ssl.SSLContext | None
    tls_name: str

    def is_known(self, path: str, key: str) -> bool:
        """Whether the list lets this node key in at this path."""
        asked = f"{path}|{key}"
        found = self.texts.get(asked.lower())
        if found is None:
            found = next((value for pattern, value in self.patterns if pattern.search(asked)), "")
        return found not in ("", "0")


def read_settings(path: str, read: Callable[[str], bytes]) -> Settings | None:
    """The configuration in a file; None when it says that nginx goes on as a daemon. Raises ConfError."""
    tree = read_conf(path, read)
    found: dict[str, Directive] = {}
    for directive in walk(tree):
        name = directive.words[0]
        # Of those that stand more than once these are told apart by what they are about.
        key = " ".join(directive.words[:2]) if name in ("map", "set", "proxy_set_header") else name
        if name != "location" or any(inner.words[0] == "proxy_pass" for inner in directive.block or []):
            found.setdefault(key, directive)
    texts, patterns = _read_list(found.get("map $uri|$key"))
    if "events" not in found:
        raise ConfError('no "events" section in configuration')
    try:
        questions, panel = found["map $request_body"].block or [], found["set $panel"].words[2]
        parts = urlsplit(panel)
        settings = Settings(
            port=int(found["listen"].words[1].rpartition(":")[2]),
            location=_pattern(found["location"].words[-1]),
            methods=found["limit_except"].words[1:],
            panel=panel,
            headers={
                directive.words[1]: directive.words[2]
                for directive in found.values()
                if directive.words[0] == "proxy_set_header" and directive.words[2]
            },
            connect_seconds=seconds(found["proxy_connect_timeout"].words[1]),
            read_seconds=seconds(found["proxy_read_timeout"].words[1]),
            body_limit=size_bytes(found["client_max_body_size"].words[1]),
            key=next(_pattern(entry.words[0][1:]) for entry in questions if entry.words[0][0] == "~"),
            texts=texts,
            patterns=patterns,
            tls=_read_tls(found, read) if parts.scheme == "https" else None,
            tls_name=found["proxy_ssl_name"].words[1] if "proxy_ssl_name" in found else parts.hostname or "",
        )
    except (LookupError, ValueError, StopIteration) as error:
        raise ConfError(
            f"this is a sandbox: its nginx knows only a gate's configuration ({error!r})"
        ) from None
    return settings if "daemon" in found and found["daemon"].words[1] == "off" else None


def _pattern(text: str, where: str = "") -> re.Pattern[str]:
    """A regular expression of PCRE, as far as Python's differ from those in nothing but how groups are named. Raises ConfError."""
    try:
        return re.compile(text.replace("(?<", "(?P<"))
    except re.error as error:
        raise ConfError(f'pcre2_compile() failed: {error.msg} in "{text}"{where}') from None


def _read_list(
    directive: Directive | None,
) -> tuple[dict[str, str], tuple[tuple[re.Pattern[str], str], ...]]:
    """A map's entries and what they lead to: texts, in which case does not matter, and patterns. Raises ConfError."""
    texts: dict[str, str] = {}
    patterns = []
    for entry in (directive.block or []) if directive else []:
        words, where = entry.words, f" in {entry.place}"
        if entry.block is not None:
            raise ConfError(f'unexpected "{{"{where}')
        if len(words) != 2:
            raise ConfError(f"invalid number of the map parameters{where}")
        if words[0].startswith("~"):
            patterns.append((_pattern(words[0][1:], where), words[1]))
        elif words[0].lower() in texts:
            raise ConfError(f'conflicting parameter "{words[0]}"{where}')
        elif words[0] != "default":
            texts[words[0].lower()] = words[1]
    return texts, tuple(patterns)


def _read_tls(found: dict[str, Directive], read: Callable[[str], bytes]) -> ssl.SSLContext:
    """How an https panel is spoken to. Raises ConfError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # nginx compares names in its own way
    if "proxy_ssl_verify" not in found or found["proxy_ssl_verify"].words[1] != "on":
        context.verify_mode = ssl.CERT_NONE
        return context
    if "proxy_ssl_trusted_certificate" not in found:
        raise ConfError("no proxy_ssl_trusted_certificate for proxy_ssl_verify")
    path = found["proxy_ssl_trusted_certificate"].words[1]
    try:
        context.load_verify_locations(cadata=read(path).decode("ascii"))
    except (ValueError, OSError) as error:
        no_file = not isinstance(error, ssl.SSLError) and isinstance(error, OSError)
        reason = _NO_FILE.format(path=path) if no_file else _NO_CERTIFICATE
        raise ConfError(f'SSL_CTX_load_verify_locations("{path}") failed (SSL: {reason})') from None
    return context


class Gate:
    """One running nginx."""

    ENDS = {"KILL": 137, "TERM": 0, "INT": 0, "QUIT": 0}

    def __init__(self, command: list[str], around: Surroundings) -> None:
        self._program, *self._arguments = command
        self._around = around
        self._path = _DEFAULT_CONF
        self._settings: Settings | None = None
        self._pids = itertools.count(os.getpid() + 1)
        self._workers: list[int] = []
        self._reloading: asyncio.TimerHandle | None = None
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.reloads_on_hangup = True

    async def start(self) -> None:
        """Listen on a free port of the server's address. Raises Exited when nginx would end at once, OSError."""
        self._path = _read_arguments(self._arguments)
        try:
            self._settings = read_settings(self._path, self._around.read)
        except ConfError as error:
            raise Exited(1, _emergency(error)) from None
        if self._settings is None:
            raise Exited(0)  # a daemon's parent has done its work
        self._workers = [next(self._pids)]
        self._server = await asyncio.start_server(self._accept, self._around.address, 0)

    async def stop(self) -> None:
        if self._reloading is not None:
            self._reloading.cancel()
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def reload(self) -> None:
        """Read the files again; what is wrong in them is logged, and the gate goes on as before.

        Old and new worker answer side by side for a moment; here the old one does until it ends.
        """
        try:
            settings = read_settings(self._path, self._around.read) or self._settings
        except ConfError as error:
            self._around.log(_emergency(error))
            return
        self._workers.append(next(self._pids))
        if self._reloading is not None:
            self._reloading.cancel()
        loop = asyncio.get_running_loop()
        self._reloading = loop.call_later(_RELOAD_SECONDS, self._end_old_workers, settings)

    def _end_old_workers(self, settings: Settings | None) -> None:
        self._settings, self._workers = settings, self._workers[-1:]

    def processes(self) -> dict[int, str]:
        master = f"nginx: master process {' '.join((self._program, *self._arguments))}"
        return {os.getpid(): master, **dict.fromkeys(self._workers, "nginx: worker process")}

    @property
    def connections(self) -> int:
        return len(self._tasks)

    def place_of(self, port: int) -> tuple[str, int] | None:
        if self._server is None or self._settings is None or port != self._settings.port:
            return None
        address, own_port = self._server.sockets[0].getsockname()[:2]
        return str(address), int(own_port)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(
            serve(reader, writer, self._answer, {"Server": f"nginx/{VERSION}"})
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, request: Request) -> Response:
        count_message(self._around.wire, received=len(request.body) + _HEAD_BYTES)
        count_message(self._around.wire, sent=_HEAD_BYTES)
        settings = self._settings
        match = settings.location.search(request.path) if settings else None
        if settings is None or match is None:
            return _page(404)
        if len(request.body) > settings.body_limit:
            return _page(413)
        if request.method not in settings.methods:
            return _page(403)
        try:
            answer = await _ask(settings, match["relay"], request.body)
        except FAILURES:
            return _by_list(settings, request)
        if answer.status in _AWAY:
            answer.close()
            return _by_list(settings, request)
        return Response(
            answer.status, content_type=answer.headers.get("content-type", ""), pieces=_pass_on(answer)
        )


async def _ask(settings: Settings, relay: str, body: bytes) -> Answer:
    """Ask the panel. Raises one of ``asking.FAILURES``."""
    parts = urlsplit(settings.panel)
    host, port = parts.hostname or "", parts.port or (443 if settings.tls else 80)
    async with asyncio.timeout(settings.connect_seconds):
        reader, writer = await asyncio.open_connection(
            host, port, ssl=settings.tls, server_hostname=settings.tls_name if settings.tls else None
        )
    if settings.tls and settings.tls.verify_mode and not _is_named(writer, settings.tls_name):
        writer.transport.abort()
        raise ssl.SSLCertVerificationError("the certificate is for another name")
    target = f"{parts.path}/admission/{relay}"
    headers = {"Host": parts.netloc, **settings.headers}
    return await post(reader, writer, target, body, headers, read_seconds=settings.read_seconds)


def _is_named(writer: asyncio.StreamWriter, name: str) -> bool:
    """Whether the other side's certificate bears the name, as OpenSSL's X509_check_host has it: the common name counts where
    there are no DNS names, and addresses do not count."""
    certificate = writer.get_extra_info("ssl_object").getpeercert()
    names = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"]
    if not names:
        names = [value for part in certificate["subject"] for kind, value in part if kind == "commonName"]
    wild = "*." + name.partition(".")[2]
    return any(value.lower() in (name.lower(), wild.lower()) for value in names)


def _by_list(settings: Settings, request: Request) -> Response:
    """The answer while the panel is away."""
    match = settings.key.search(request.body.decode("latin-1"))
    if match is None:
        return _page(400)
    if settings.is_known(request.path, match["node"]):
        return Response(200, b'{"Allow":true}', "application/json")
    return _page(403)


async def _pass_on(answer: Answer) -> AsyncIterator[bytes]:
    """The panel's body as it comes; the connection ends where that breaks off, since the headers are gone already."""
    try:
        async for piece in answer.pieces():
            yield piece
    except FAILURES:
        raise Disconnect from None
    finally:
        answer.close()


def _page(status: int) -> Response:
    words = f"{status} {HTTPStatus(status).phrase}"
    return Response(status, f"<html><head><title>{words}</title></head></html>\r\n".encode(), "text/html")


def _emergency(error: ConfError) -> str:
    return f"[emerg] 1#1: {error}"


def _read_arguments(arguments: list[str]) -> str:
    """The file that the command line names. Raises Exited."""
    rest, path = list(arguments), _DEFAULT_CONF
    while rest:
        option = rest.pop(0)
        if option == "-c":
            if not rest:
                raise Exited(1, 'nginx: option "-c" requires file name', plain=True)
            path = rest.pop(0)
        elif option == "-v":
            raise Exited(0, f"nginx version: nginx/{VERSION}", plain=True)
        else:
            raise Exited(1, f'nginx: invalid option: "{option.removeprefix("-")}"', plain=True)
    return path
