"""The customer's own verify address: what is asked, what is not, and what the far side cannot do to us."""

import gzip
import http.server
import itertools
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
from django.core.cache import cache
from django.test import override_settings
from django.utils import translation

from acl.devices import outbound, sources
from acl.devices.sources import Answer, VerifyUrlRefused, check_verify_url
from derpmgmt.web import THREADS
from tests.acl.answering import KEY, NO, YES, ask, problem, response, saying
from tests.acl.answering import _fresh as _fresh
from tests.acl.answering import open_house as open_house
from tests.derp.conftest import admission as admission
from tests.derp.conftest import start_scripted as start_scripted
from tests.derp.parts import PATIENCE, AdmissionServer, Certificate, ScriptedServer, make_certificate

pytestmark = pytest.mark.differs  # what was answered stands in Redis

# Answers


@pytest.mark.usefixtures("open_house")
@pytest.mark.parametrize(("body", "expected"), [(b'{"Allow":true}', YES), (b'{"Allow": false}\n', NO)])
def test_the_address_is_believed_when_it_answers_as_headscale_does(
    admission: AdmissionServer, body: bytes, expected: Answer
) -> None:
    admission.body = body
    assert ask(admission.url) == expected
    assert admission.questions == [
        {"path": "/verify/7?part=a", "json": {"NodePublic": f"nodekey:{KEY}", "Source": "198.51.100.7"}}
    ]


@pytest.mark.usefixtures("open_house")
@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (200, b'{"Allow": "true"}', "not_headscale"),
        (200, b'{"Allow": 1}', "not_headscale"),
        (200, b'{"allow": true}', "not_headscale"),
        (200, b"[true]", "not_headscale"),
        (200, b"null", "not_headscale"),
        (200, b"", "not_headscale"),
        (200, b"<html>", "not_headscale"),
        (200, b"\xff\xfe", "not_headscale"),
        (200, b"[" * 4000, "not_headscale"),
        (200, gzip.compress(b'{"Allow":true}' + b" " * 10_000_000, 9)[:4000], "not_headscale"),
        (200, b'{"Allow": true, "x": "' + b"y" * 5000 + b'"}', "not_headscale"),
        (200, b'{"Allow": true}' + b" " * 5000, "not_headscale"),
        (201, b'{"Allow": true}', "status"),
        (403, b'{"Allow": true}', "status"),
        (500, b'{"Allow": true}', "status"),
        (302, b'{"Allow": true}', "redirect"),
    ],
)
def test_nothing_is_believed_when_the_answer_is_another(
    admission: AdmissionServer, status: int, body: bytes, code: str
) -> None:
    admission.status, admission.body = status, body
    assert ask(admission.url) == problem(code)


@pytest.mark.usefixtures("open_house")
def test_a_redirect_is_not_followed(
    admission: AdmissionServer, start_scripted: Callable[..., ScriptedServer]
) -> None:
    leads_on = response(b"", "307 Temporary Redirect", f"Location: {admission.url}\r\n")
    server = start_scripted(saying(leads_on))
    assert ask(f"http://127.0.0.1:{server.port}/verify") == problem("redirect")
    assert admission.questions == []


@pytest.mark.usefixtures("open_house")
def test_no_proxy_is_asked_when_the_environment_names_one(
    admission: AdmissionServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert ask(admission.url) == YES


@pytest.mark.usefixtures("open_house")
def test_it_is_asked_over_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            hosts.append(self.headers["Host"])
            self.rfile.read(int(self.headers["Content-Length"]))
            self.wfile.write(response(b'{"Allow":true}'))

        def log_message(self, *_: Any) -> None:
            pass

    class Server(http.server.HTTPServer):
        address_family = socket.AF_INET6

    try:
        server = Server(("::1", 0), Handler)
    except OSError:
        pytest.skip("this machine has no IPv6")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        assert ask(f"http://[::1]:{server.server_port}/verify") == YES
        assert hosts == [f"[::1]:{server.server_port}"]
    finally:
        server.shutdown()
        thread.join(PATIENCE)
        server.server_close()


# What the far side cannot do


def drip(connection: socket.socket, data: bytes) -> None:
    for byte in data:
        connection.sendall(bytes([byte]))
        time.sleep(0.05)


@pytest.mark.usefixtures("open_house")
@pytest.mark.parametrize(
    "script",
    [
        pytest.param(lambda connection: connection.recv(1) and time.sleep(1.5), id="hung"),
        pytest.param(
            lambda connection: drip(connection, b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200), id="header"
        ),
        pytest.param(
            lambda connection: drip(connection, response(b'{"Allow":' + b" " * 200 + b"true}")), id="body"
        ),
        pytest.param(
            lambda connection: drip(connection, b"HTTP/1.1 100 Continue\r\n\r\n" * 9), id="continue"
        ),
    ],
)
def test_the_time_limit_holds_when_the_far_side_hangs_or_drips(
    start_scripted: Callable[..., ScriptedServer], script: Callable[[Any], None]
) -> None:
    server = start_scripted(script)
    started = time.monotonic()
    assert ask(f"http://127.0.0.1:{server.port}/", timeout=0.5) == problem("no_answer")
    assert time.monotonic() - started < 3


@pytest.mark.usefixtures("open_house")
def test_the_time_limit_holds_when_the_name_server_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    monkeypatch.setattr(outbound.socket, "getaddrinfo", lambda *_, **__: released.wait(PATIENCE) and [])
    try:
        started = time.monotonic()
        assert ask("http://slow.example/", timeout=0.3) == problem("unresolved")
        # Other names of the same slow kind soon cost nothing any more: there are only so many look-ups.
        answers = [ask(f"http://slow{number}.example/", timeout=0.1) for number in range(10)]
        assert answers[-1] == problem("busy")
        assert time.monotonic() - started < 5
    finally:
        released.set()


@pytest.mark.usefixtures("open_house")
@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000, id="header"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1_000_000, id="line"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" * 100_000, id="continue"),
        pytest.param(response(b" " * 10_000_000), id="body"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", id="ssh"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", id="chunks"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_little_is_read_when_the_far_side_sends_nonsense(
    start_scripted: Callable[..., ScriptedServer], answer: bytes
) -> None:
    server = start_scripted(saying(answer))
    assert ask(f"http://127.0.0.1:{server.port}/") in (problem("not_headscale"), problem("no_answer"))


@pytest.mark.usefixtures("open_house")
def test_nobody_is_reached_when_the_port_refuses() -> None:
    assert ask("http://127.0.0.1:1025/") == problem("no_answer")


# TLS


@pytest.fixture(scope="module")
def certificate() -> Certificate:
    return make_certificate("127.0.0.1")


@pytest.mark.usefixtures("open_house")
def test_the_certificate_must_be_trusted_and_fit_the_name(
    start_scripted: Callable[..., ScriptedServer],
    certificate: Certificate,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = start_scripted(saying(response(b'{"Allow":true}')), certificate)
    url = f"https://127.0.0.1:{server.port}/"
    assert ask(url) == problem("certificate")
    trusting = ssl.create_default_context(cadata=certificate.pem.decode())
    monkeypatch.setattr(outbound, "_tls", lambda: trusting)
    cache.clear()
    assert ask(url) == YES
    assert ask(f"https://localhost:{server.port}/") == problem("certificate")


@pytest.mark.usefixtures("open_house")
def test_the_time_limit_holds_when_the_handshake_hangs(start_scripted: Callable[..., ScriptedServer]) -> None:
    server = start_scripted(lambda _: time.sleep(1.5))
    started = time.monotonic()
    assert ask(f"https://127.0.0.1:{server.port}/", timeout=0.3) == problem("no_answer")
    assert time.monotonic() - started < 3


# How often


@pytest.mark.usefixtures("open_house")
def test_a_verdict_is_remembered_for_a_moment(admission: AdmissionServer) -> None:
    assert [ask(admission.url) for _ in range(3)] == [YES] * 3
    assert len(admission.questions) == 1
    admission.body = b'{"Allow":false}'
    assert ask(admission.url, key="cd" * 32) == NO
    assert ask(admission.url) == YES


@pytest.mark.usefixtures("open_house")
def test_a_silent_address_is_left_alone_for_every_key(admission: AdmissionServer) -> None:
    admission.status = 500
    assert ask(admission.url) == problem("status")
    assert ask(admission.url, key="cd" * 32) == problem("status")
    assert len(admission.questions) == 1


@pytest.mark.usefixtures("open_house")
@override_settings(
    CACHES={
        "default": {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": "redis://127.0.0.1:1/0",
        }
    }
)
def test_it_is_asked_all_the_same_when_the_cache_is_away(admission: AdmissionServer) -> None:
    assert [ask(admission.url) for _ in range(2)] == [YES, YES]
    assert len(admission.questions) == 2


@pytest.mark.usefixtures("open_house")
def test_one_question_at_a_time_goes_to_an_address(admission: AdmissionServer) -> None:
    admission.is_hung = True
    with ThreadPoolExecutor(6) as pool:
        keys = [f"{number:064x}" for number in range(6)]
        answers = list(pool.map(lambda key: ask(admission.url, key=key, timeout=1.0), keys))
    assert len(admission.questions) == 1
    assert sorted(answer.problem for answer in answers) == sorted(
        [sources.SENTENCES["no_answer"], *[sources.SENTENCES["busy"]] * 5]
    )
    assert sources._turns == {}


@pytest.mark.usefixtures("open_house")
def test_slow_addresses_do_not_take_more_threads_than_their_share() -> None:
    with ExitStack() as stack:
        hung = [stack.enter_context(AdmissionServer(is_hung=True).running()) for _ in range(sources._AT_ONCE)]
        with ThreadPoolExecutor(len(hung)) as pool:
            slow = [pool.submit(ask, server.url, timeout=1.5) for server in hung]
            while not all(server.questions for server in hung):
                time.sleep(0.01)
            assert ask("http://127.0.0.1:1025/") == problem("busy")
        assert [future.result() for future in slow] == [problem("no_answer")] * len(hung)
    assert sources._AT_ONCE + sources._CHECKS_AT_ONCE < THREADS


def slowly(connection: socket.socket) -> None:
    time.sleep(0.7)
    saying(response(b'{"Allow":false}'))(connection)


@pytest.mark.slow
@pytest.mark.usefixtures("open_house")
def test_others_are_asked_in_time_when_some_answer_slowly(
    admission: AdmissionServer, start_scripted: Callable[..., ScriptedServer]
) -> None:
    slow = [f"http://127.0.0.1:{start_scripted(slowly).port}/" for _ in range(sources._AT_ONCE)]
    keys = (f"{number:064x}" for number in itertools.count(1))
    is_over = threading.Event()

    def knock(url: str) -> None:
        while not is_over.is_set():
            ask(url, key=next(keys))

    with ThreadPoolExecutor(2 * len(slow)) as pool:
        for url in slow * 2:
            pool.submit(knock, url)
        time.sleep(0.2)
        answers = []
        for _ in range(10):
            answers.append(ask(admission.url, key=next(keys)))
            time.sleep(0.15)
        is_over.set()
    assert answers[-5:] == [YES] * 5


@pytest.mark.usefixtures("open_house")
def test_a_slow_address_is_believed_and_then_rests(start_scripted: Callable[..., ScriptedServer]) -> None:
    url = f"http://127.0.0.1:{start_scripted(slowly).port}/"
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask, url)
        # One that comes while the first is nearly answered does not ask again as soon as it has the turn.
        time.sleep(0.5)
        assert ask(url, key="cd" * 32) == problem("slow")
        assert first.result() == NO
    assert ask(url) == NO
    assert ask(url, key="ef" * 32) == problem("slow")


# The form


@pytest.mark.usefixtures("open_house")
def test_relays_questions_are_asked_while_addresses_of_forms_are_tried(admission: AdmissionServer) -> None:
    with AdmissionServer(is_hung=True).running() as one, AdmissionServer(is_hung=True).running() as two:
        with ThreadPoolExecutor(2) as pool:
            slow = [pool.submit(check_verify_url, server.url, timeout=1.5) for server in (one, two)]
            while not (one.questions or two.questions):
                time.sleep(0.01)
            assert ask(admission.url) == YES
        codes = {future.exception().code for future in slow}  # type: ignore[union-attr]
    assert codes == {"no_answer", "busy"}


@pytest.mark.usefixtures("open_house")
def test_an_address_is_taken_when_it_says_no_to_a_key_that_nobody_has(admission: AdmissionServer) -> None:
    admission.body = b'{"Allow":false}'
    check_verify_url(admission.url)
    check_verify_url(admission.url)
    first, second = (question["json"]["NodePublic"] for question in admission.questions)
    assert first != second


@pytest.mark.usefixtures("open_house")
def test_an_address_is_refused_when_it_says_yes_to_everybody(admission: AdmissionServer) -> None:
    with pytest.raises(VerifyUrlRefused) as refusal:
        check_verify_url(admission.url)
    assert refusal.value.code == "allows_everybody"


def test_every_refusal_has_a_sentence() -> None:
    with translation.override("en"):
        for code in sources.SENTENCES:
            assert str(VerifyUrlRefused(code)) == sources.SENTENCES[code]
            assert str(VerifyUrlRefused("too_large")) == str(VerifyUrlRefused("not_http"))


@pytest.mark.usefixtures("open_house")
def test_a_secret_in_the_address_stands_nowhere(
    admission: AdmissionServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    url = admission.url + "&token=s3cr3t-t0ken"
    client = cache._cache.get_client()  # type: ignore[attr-defined]
    for status in (200, 500):
        admission.status = status
        ask(url, key=f"{status:064x}")
        with pytest.raises(VerifyUrlRefused) as refusal:
            check_verify_url(url)
        assert "s3cr3t" not in repr(refusal.value) + str(refusal.value)
        assert refusal.value.__cause__ is None
    stored = {name: client.get(name) for name in client.keys("*verify*")}
    assert stored
    assert b"s3cr3t" not in json.dumps([(str(k), str(v)) for k, v in stored.items()]).encode()
    assert "s3cr3t" not in caplog.text
