"""Push services and text messages when the line fails: what cannot have arrived is tried again, anything else is not."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
import responses
import time_machine
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from django.test import Client
from django.utils import timezone, translation
from django.utils.translation import gettext
from urllib3.exceptions import ProtocolError

from accounts import push, services, sms
from accounts.models import Notice, User
from accounts.services import channels, notices
from accounts.services.channels import send_test
from tests.factories import ChannelFactory, UserFactory

pytestmark = pytest.mark.django_db

State = Notice.State
BARK = "bark://api.day.app/abcdefKEY1234"
TELEGRAM = "tgram://123456789:ABCdefGHIjklMNOpqrsTUVwxyz012345678/98765432"
# How the line fails before anything can have left, and afterwards.
BEFORE = ["no name", "no way", "no handshake", "reset", "stranger"]
AFTER = ["silent", "broken"]
HOSTS = ["api.day.app", "api.telegram.org"]


class World:
    """What every service's name leads to: nothing, a port at which nobody listens, or a host that treats callers badly."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind, self.connections = kind, 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._port = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority = _write_certificate(folder)
        self._tls.load_cert_chain(self.authority)
        if kind == "no way":
            self._listener.close()
        else:
            threading.Thread(target=self._run, daemon=True).start()

    def find(self, host: str, *_rest: Any, **_more: Any) -> list[Any]:
        if self.kind == "no name":
            raise socket.gaierror(socket.EAI_NONAME, f"no address for {host}")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", self._port))]

    def _run(self) -> None:
        while True:
            try:
                line, _address = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            with contextlib.suppress(OSError):
                if self.kind in {"silent", "broken", "stranger"}:
                    line = self._tls.wrap_socket(line, server_side=True)
                    line.recv(65536)
                if self.kind in {"reset", "broken"}:
                    line.close()
            self._open.append(line)

    def close(self) -> None:
        for line in (self._listener, *self._open):
            line.close()


def _write_certificate(folder: Path) -> Path:
    """A certificate of all the services, which is its own authority, with its key."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    start = datetime.now(UTC) - timedelta(days=1)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, start, start + timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in HOSTS]), critical=True)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file = folder / "services.pem"
    file.write_bytes(certificate.public_bytes(Encoding.PEM) + secret)
    return file


@pytest.fixture
def user() -> User:
    return UserFactory()


@pytest.fixture
def world(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[World]:
    from apprise import URLBase

    there = World(request.param, tmp_path)
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    if there.kind in AFTER:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(there.authority))
    monkeypatch.setattr(socket, "getaddrinfo", _for_names(there, socket.getaddrinfo))
    monkeypatch.setattr(URLBase, "socket_connect_timeout", 0.3)
    monkeypatch.setattr(push, "READ_SECONDS", 0.3)
    monkeypatch.setattr(sms, "CONNECT_MILLISECONDS", 300)
    yield there
    there.close()


def _for_names(there: World, find: Callable[..., Any]) -> Callable[..., Any]:
    """Services have names; what is ours has addresses."""
    ours = {"localhost", "127.0.0.1", "::1", None}
    return lambda host, *rest, **more: (find if host in ours else there.find)(host, *rest, **more)


@pytest.fixture
def with_sms(settings: Any) -> None:
    pytest.importorskip("alibabacloud_dysmsapi20170525", reason="requirements-sms.txt is not installed")
    settings.SMS_ACCESS_KEY_ID, settings.SMS_ACCESS_KEY_SECRET = "LTAIexample", "secret-of-the-key"
    settings.SMS_SIGN_NAME = "中继"
    settings.SMS_NOTICE_TEMPLATE, settings.SMS_CODE_TEMPLATE = "SMS_1", "SMS_2"


def tell(user: User, by: str) -> Notice:
    services.notify(user=user, kind="rental_ended", key="r", context={"ends_at": timezone.now()})
    return Notice.objects.get(channel=by)


def tell_by_sms(user: User) -> Notice:
    ChannelFactory(user=user, kind="sms", label="138", address="13812345678")
    return tell(user, "sms")


def live_on(notice: Notice) -> None:
    """Every try that is still to come."""
    for _ in range(len(notices.BACKOFF) + 2):
        notice.refresh_from_db()
        with time_machine.travel(notice.send_after):
            notices.send_notice(notice.pk)
    notice.refresh_from_db()


@pytest.mark.slow
@pytest.mark.parametrize("world", BEFORE + AFTER, indirect=True)
@pytest.mark.parametrize("address", [BARK, TELEGRAM])
def test_a_push_is_tried_again_only_when_it_cannot_have_arrived(
    user: User, world: World, address: str
) -> None:
    channels.add_push_channel(user=user, address=address)
    notice = tell(user, "push")
    live_on(notice)
    assert notice.state == State.FAILED
    if world.kind in AFTER:
        assert (world.connections, notice.tries, notice.error) == (1, 1, notices.IN_DOUBT)
    else:
        assert (notice.tries, notice.error) == (len(notices.BACKOFF) + 1, push.UNREACHABLE)


@pytest.mark.parametrize("world", BEFORE, indirect=True)
def test_a_text_message_is_tried_again_when_it_cannot_have_arrived(
    user: User, with_sms: None, world: World
) -> None:
    notice = tell_by_sms(user)
    live_on(notice)
    assert notice.state == State.FAILED
    assert (notice.tries, notice.error) == (len(notices.BACKOFF) + 1, sms.UNREACHABLE)


@pytest.mark.parametrize(
    "error", [requests.ReadTimeout("slow"), requests.ConnectionError(ProtocolError("Connection aborted."))]
)
def test_a_text_message_is_not_tried_again_when_it_may_have_arrived(
    user: User, with_sms: None, error: Exception
) -> None:
    notice = tell_by_sms(user)
    with responses.RequestsMock() as internet:
        internet.add("POST", "https://dysmsapi.aliyuncs.com/", body=error)
        live_on(notice)
        assert len(internet.calls) == 1
    assert (notice.state, notice.error) == (State.FAILED, notices.IN_DOUBT)


def test_a_service_that_is_slow_is_given_its_time() -> None:
    with responses.RequestsMock() as internet:
        internet.add("POST", "https://api.day.app/push", json={"code": 200})
        push.send(push.read_address(BARK).url, title="a", text="b")
        (call,) = internet.calls
    assert call.request.req_kwargs["timeout"] == (4.0, 15.0)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("second", "is_in_doubt"), [(200, True), (500, False)])
def test_an_address_with_two_receivers_is_not_tried_again_when_one_has_it(
    second: int, is_in_doubt: bool
) -> None:
    with responses.RequestsMock() as internet:
        for status in (500, second):
            url = "https://api.telegram.org/bot123456789:ABCdefGHIjklMNOpqrsTUVwxyz012345678/sendMessage"
            internet.add("POST", url, json={"ok": status == 200, "description": "busy"}, status=status)
        with pytest.raises(push.PushFailed) as failure:
            push.send(push.read_address(f"{TELEGRAM}/11112222").url, title="a", text="b")
        assert len(internet.calls) == 2
    assert failure.value.is_in_doubt is is_in_doubt


@pytest.mark.parametrize(
    ("world", "said"),
    [("no way", "服务未接受：无法连接到该服务。"), ("silent", "该服务没有正常回应，消息可能已送达。")],
    indirect=["world"],
)
def test_a_test_says_in_his_language_what_is_wrong(
    user: User, sign_in: Callable[[User], Client], world: World, said: str
) -> None:
    channel = channels.add_push_channel(user=user, address=BARK)
    page = sign_in(user).post(f"/account/channels/{channel.pk}/test/", follow=True)
    assert [str(message) for message in page.context["messages"]] == [said]


def test_a_channels_test_is_called_as_its_button_is(user: User) -> None:
    channel = channels.add_push_channel(user=user, address=BARK)
    with responses.RequestsMock() as internet:
        internet.add("POST", "https://api.day.app/push", json={"code": 200})
        send_test(channel=channel)
        assert json.loads(internet.calls[0].request.body or "")["title"] == "测试"


def test_reasons_of_ours_are_read_in_the_readers_language(settings: Any) -> None:
    settings.SMS_ACCESS_KEY_ID = ""
    with pytest.raises(sms.SmsFailed) as failure:
        sms.send_notice("13812345678", "subject")
    assert failure.value.reason == sms.NOT_CONFIGURED
    ours = [sms.NOT_CONFIGURED, sms.NOT_INSTALLED, sms.UNREACHABLE]
    ours += [push.NOT_UNDERSTOOD, push.NOT_TAKEN, push.UNREACHABLE, push.IN_DOUBT]
    with translation.override("zh-hans"):
        assert all(gettext(reason) != reason for reason in ours)
