"""A mail server that does not answer: few wait for it, for a short time, and soon nobody."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.core.mail import EmailMessage
from django.test import Client

from derpmgmt.lib import mail
from derpmgmt.lib.mail import MOST_ASKED, MailFailed, deliver
from derpmgmt.web import THREADS
from tests.factories import UserFactory
from tests.panel.running import wait_for
from tests.panel.smtp_server import smtp_server

ASKERS = 40


class Hanging:
    """It takes connections and says nothing, or so slowly that it never comes to an end."""

    def __init__(self, listener: socket.socket, says: bytes) -> None:
        self.taken: list[socket.socket] = []
        self._listener, self._says = listener, says

    def run(self) -> None:
        while True:
            try:
                client, _address = self._listener.accept()
            except OSError:
                return
            client.sendall(self._says)
            self.taken.append(client)


@pytest.fixture(params=[b"", b"220 mail.example.com\r\n"], ids=["silent", "hangs after its greeting"])
def hanging(request: Any, settings: Any) -> Iterator[Hanging]:
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        server = Hanging(listener, request.param)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
        settings.EMAIL_HOST, settings.EMAIL_PORT = listener.getsockname()
        settings.EMAIL_TIMEOUT = 600
        yield server
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    for client in server.taken:
        client.close()


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mail, "_rests_until", 0.0)
    monkeypatch.setattr(mail, "ASKED_SECONDS", 1.0)
    monkeypatch.setattr(mail, "MOMENT_SECONDS", 0.5)


def ask(number: int = 0) -> bool:
    """Whether a mail that somebody waits for was sent."""
    message = EmailMessage("subject", "text", "panel@example.com", [f"c{number}@example.com"])
    try:
        deliver(message, is_asked=True)
    except MailFailed:
        return False
    return True


def test_few_wait_and_all_others_hear_at_once(hanging: Hanging, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mail, "ASKED_SECONDS", 20.0)
    assert MOST_ASKED < THREADS / 2  # pages have the others
    with ThreadPoolExecutor(ASKERS) as pool:
        asked = [pool.submit(ask, number) for number in range(ASKERS)]
        wait_for(lambda: sum(one.done() for one in asked) >= ASKERS - MOST_ASKED, "the others hear")
        assert sum(one.done() for one in asked) == ASKERS - MOST_ASKED
        wait_for(lambda: len(hanging.taken) == MOST_ASKED, "the few wait")
        for client in hanging.taken:
            client.close()
        assert not any(one.result() for one in asked)


def test_a_mail_server_that_let_somebody_wait_is_left_alone_for_a_while(
    hanging: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not ask()  # after a second, not after the ten minutes of the settings
    tried = len(hanging.taken)
    assert tried == 1
    for number in range(10):
        assert not ask(number)
    assert len(hanging.taken) == tried
    later = time.monotonic() + mail.REST_SECONDS + 1
    monkeypatch.setattr(mail.time, "monotonic", lambda: later)
    assert not ask()
    wait_for(lambda: len(hanging.taken) == tried + 1, "it is tried again")


def test_mail_goes_again_once_the_mail_server_answers(settings: Any) -> None:
    with smtp_server(settings):
        assert all(ask(number) for number in range(8))


def test_a_refusal_that_comes_at_once_is_no_reason_to_wait(settings: Any) -> None:
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", 1
    assert not ask()
    assert mail._rests_until == 0


@pytest.mark.django_db
def test_a_person_is_told_in_words(hanging: Hanging, client: Client) -> None:
    UserFactory(email="mei@example.com", username="mei")
    for _ in range(2):  # waited for, and not even tried
        answer = client.post("/accounts/password/reset/", {"email": "mei@example.com"})
        assert answer.status_code == 503
        assert "请返回，几分钟后再试" in answer.content.decode()
    assert len(hanging.taken) == 1


def test_notices_keep_their_own_patience(hanging: Hanging, settings: Any) -> None:
    settings.EMAIL_TIMEOUT = 1
    tries: list[Callable[[], None]] = []
    message = EmailMessage("subject", "text", "panel@example.com", ["mei@example.com"])
    for _ in range(2):
        with pytest.raises(MailFailed):
            deliver(message, is_asked=False, before_handing=lambda: tries.append)
    assert len(hanging.taken) == 2
