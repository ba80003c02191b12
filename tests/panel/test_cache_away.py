"""Redis away, hung or refusing: people sign in, sign up and reset all the same, uncounted; the log says so once."""

import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from allauth.mfa.recovery_codes.internal.auth import RecoveryCodes
from django.contrib.auth import get_user
from django.core import mail
from django.core.cache import caches
from django.test import Client

from accounts import services
from accounts.models import User
from derpmgmt.lib import cache as panel_cache
from tests.accounts.conftest import mailed_code, totp
from tests.factories import PASSWORD, UserFactory

# What a Redis says that is there and does not serve: a replica, a full disk, a full memory, a password that is missing, one that starts.
REFUSALS = {
    "readonly": "READONLY You can't write against a read only replica.",
    "misconf": "MISCONF Errors writing to the AOF file: No space left on device",
    "oom": "OOM command not allowed when used memory > 'maxmemory'.",
    "noauth": "NOAUTH Authentication required.",
    "loading": "LOADING Redis is loading the dataset in memory",
    "strange": "ERR nobody knows",
}


@contextmanager
def _listening(answer: bytes | None) -> Iterator[str]:
    """The address of something that takes connections and gives `answer` to whatever is said; without one it is silent."""
    server = socket.create_server(("127.0.0.1", 0))
    taken: list[socket.socket] = []

    def talk(peer: socket.socket) -> None:
        try:
            while said := peer.recv(65536):
                if answer is not None:
                    # One for each command of a pipeline.
                    peer.sendall(answer * max(1, said.count(b"*")))
        except OSError:
            pass

    def serve() -> None:
        while True:
            try:
                peer, _address = server.accept()
            except OSError:
                return
            taken.append(peer)
            threading.Thread(target=talk, args=(peer,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"redis://127.0.0.1:{server.getsockname()[1]}/1"
    finally:
        # Wakes who waits for a connection, which closing alone does not.
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        for peer in taken:
            peer.close()


@pytest.fixture(params=["refused", "hung", *REFUSALS])
def away(request: pytest.FixtureRequest, settings: Any) -> Iterator[str]:
    """The panel's cache as it is, behind an address where no Redis serves."""
    panel_cache._resting.clear()
    kind = request.param
    if kind == "refused":
        settings.CACHES = {"default": settings.CACHES["default"] | {"LOCATION": "redis://127.0.0.1:1/1"}}
        yield kind
    else:
        answer = None if kind == "hung" else f"-{REFUSALS[kind]}\r\n".encode()
        with _listening(answer) as where:
            settings.CACHES = {"default": settings.CACHES["default"] | {"LOCATION": where}}
            yield kind
    panel_cache._resting.clear()


@pytest.mark.slow
def test_people_come_in_as_usual_when_the_cache_is_away(
    db: None, away: str, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    # By password; wrong ones are told as usual, however many.
    user, secret = UserFactory(), "JBSWY3DPEHPK3PXP"
    for _ in range(12):
        wrong = client.post("/accounts/login/", {"login": user.email, "password": "wrong-secret-1"})
        assert wrong.status_code == 200
    client.post("/accounts/login/", {"login": user.email, "password": PASSWORD})
    assert get_user(client).is_authenticated
    # Another address.
    assert client.post("/accounts/email/", {"action_add": "", "email": "new@example.com"}).status_code == 302
    assert client.post("/accounts/confirm-email/", {"code": mailed_code()}).status_code == 302
    assert User.objects.get(pk=user.pk).email == "new@example.com"
    client.post("/accounts/logout/")
    # A new account.
    sign_up = {"email": "li@example.com", "username": "", "password1": PASSWORD}
    assert client.post("/accounts/signup/", sign_up).status_code == 302
    assert client.post("/accounts/confirm-email/", {"code": mailed_code()}).status_code == 302
    assert get_user(client).is_authenticated
    client.post("/accounts/logout/")
    # A forgotten password.
    reset = client.post("/accounts/password/reset/", {"email": "li@example.com"})
    assert mail.outbox[-1].to == ["li@example.com"]
    assert client.post(reset["Location"], {"code": mailed_code()}).status_code == 302
    # A second factor.
    services.enrol_second_factor(user=user, secret=secret)
    client.post("/accounts/login/", {"login": "new@example.com", "password": PASSWORD})
    code = totp(secret)
    client.post("/accounts/2fa/authenticate/", {"code": code})
    assert get_user(client).pk == user.pk
    # A code that was used stays used: the same one, one of an earlier step, and a recovery code.
    unused = RecoveryCodes.activate(user).get_unused_codes()
    for again in (code, f" {code}", totp(secret, steps=-1)):
        _meet_the_second_door(client)
        refused = client.post("/accounts/2fa/authenticate/", {"code": again})
        assert refused.context["form"].errors["code"]
        assert not get_user(client).is_authenticated
    for recovery_code, is_taken in ((unused[0], True), (unused[0], False), (unused[1], True)):
        _meet_the_second_door(client)
        client.post("/accounts/2fa/authenticate/", {"code": recovery_code})
        assert get_user(client).is_authenticated == is_taken
    said = [record for record in caplog.records if "the cache is away" in record.getMessage()]
    assert len(said) == 1


def _meet_the_second_door(client: Client) -> None:
    client.post("/accounts/logout/")
    client.post("/accounts/login/", {"login": "new@example.com", "password": PASSWORD})


def test_the_cache_is_asked_again_after_a_rest(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = settings.CACHES["default"]
    panel_cache._resting.clear()
    settings.CACHES = {"default": real | {"LOCATION": "redis://127.0.0.1:1/1"}}
    assert caches["default"].get("k", "none") == "none"
    monkeypatch.setattr(panel_cache.redis, "Redis", None)  # whoever asked now would fail
    caches["default"].set("k", 1)
    assert caches["default"].add("k", 1) is True
    assert caches["default"].incr("k") == 1
    assert caches["default"].get_many(["k"]) == {}
    monkeypatch.undo()
    where = ",".join(caches["default"]._servers)
    assert where in panel_cache._resting
    panel_cache._resting[where] = 0.0
    settings.CACHES = {"default": real}
    caches["default"].set("k", 1)
    assert caches["default"].get("k") == 1
