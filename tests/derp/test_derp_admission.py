import socket
import threading
from collections.abc import Callable

import pytest

from containers.derp import keys
from containers.derp.client import NotAdmitted
from derpmgmt.sandbox import verify_client as sandbox_admission
from tests.derp.parts import PATIENCE, AdmissionServer, Relay, ScriptedServer


def test_client_is_asked_about_once_when_it_connects(
    start_relay: Callable[..., Relay], admission: AdmissionServer
) -> None:
    relay = start_relay(verify_url=admission.url)
    with relay.connect() as client:
        client.ping(timeout=PATIENCE)
        assert admission.questions == [
            {
                "path": "/verify/7?part=a",
                "json": {"NodePublic": keys.format_node_key(client.public_key), "Source": "127.0.0.1"},
            }
        ]


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b'{"Allow": false}'),
        (200, b"{}"),
        (200, b"null"),
        (200, b"not JSON"),
        (200, b""),
        (403, b'{"Allow": true}'),
        (500, b'{"Allow": true}'),
        (204, b""),
        (200, b" " * 5000 + b'{"Allow": true}'),
    ],
)
def test_client_is_refused_when_the_answer_is_no(
    status: int, body: bytes, start_relay: Callable[..., Relay], admission: AdmissionServer
) -> None:
    admission.status, admission.body = status, body
    # An answer is an answer: that the relay would admit when there is none makes no difference.
    relay = start_relay(verify_url=admission.url, fail_open=True)
    with pytest.raises(NotAdmitted):
        relay.connect()
    with relay.connect(mesh_key=relay.mesh_key) as trusted:
        assert trusted.ping(timeout=PATIENCE) > 0
    assert len(admission.questions) == 1


def test_stranger_is_asked_about_when_its_mesh_key_is_wrong(
    start_relay: Callable[..., Relay], admission: AdmissionServer
) -> None:
    admission.body = b'{"Allow": false}'
    relay = start_relay(verify_url=admission.url)
    with pytest.raises(NotAdmitted):
        relay.connect(mesh_key=keys.generate_mesh_key())
    assert len(admission.questions) == 1


@pytest.mark.parametrize("fail_open", [False, True])
def test_silent_url_decides_as_configured_when_it_is_down(
    fail_open: bool, start_relay: Callable[..., Relay]
) -> None:
    with AdmissionServer().running() as gone:
        url = gone.url
    relay = start_relay(verify_url=url, fail_open=fail_open)
    if fail_open:
        with relay.connect() as client:
            assert client.ping(timeout=PATIENCE) > 0
    else:
        with pytest.raises(NotAdmitted):
            relay.connect()


@pytest.mark.parametrize("fail_open", [False, True])
def test_silent_url_decides_as_configured_when_it_hangs(
    fail_open: bool,
    start_relay: Callable[..., Relay],
    admission: AdmissionServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The real derper cannot be told to be less patient.
    monkeypatch.setattr(sandbox_admission, "_ASK_SECONDS", 0.3)
    admission.is_hung = True
    relay = start_relay(verify_url=admission.url, fail_open=fail_open)
    if fail_open:
        with relay.connect() as client:
            assert client.ping(timeout=PATIENCE) > 0
    else:
        with pytest.raises(NotAdmitted):
            relay.connect()
    assert len(admission.questions) == 1


@pytest.mark.parametrize("status", [200, 403])
def test_client_is_refused_when_the_answer_hangs_after_its_headers(
    status: int,
    start_relay: Callable[..., Relay],
    admission: AdmissionServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sandbox_admission, "_ASK_SECONDS", 0.3)
    admission.status, admission.hangs_after_headers = status, True
    # The URL has answered, so that it is no longer a silent one.
    relay = start_relay(verify_url=admission.url, fail_open=True)
    with pytest.raises(NotAdmitted):
        relay.connect()


def test_client_is_admitted_when_the_answer_hangs_after_its_last_word(
    start_relay: Callable[..., Relay], start_scripted: Callable[..., ScriptedServer]
) -> None:
    released = threading.Event()

    def answer(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"Allow":true} ')
        released.wait(PATIENCE * 2)

    server = start_scripted(answer)
    relay = start_relay(verify_url=f"http://127.0.0.1:{server.port}/verify")
    with relay.connect() as client:
        assert client.ping(timeout=PATIENCE) > 0
    released.set()


def test_connected_client_stays_when_admission_changes_its_mind(
    start_relay: Callable[..., Relay], admission: AdmissionServer
) -> None:
    relay = start_relay(verify_url=admission.url)
    with relay.connect() as client:
        admission.body = b'{"Allow": false}'
        assert client.ping(timeout=PATIENCE) > 0
        with pytest.raises(NotAdmitted):
            relay.connect()
