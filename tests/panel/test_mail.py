"""All mail passes one door: five messages in any ten minutes to one address, told clearly to people, awaited by the rest."""

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import redis
import time_machine
from django.core import mail
from django.core.mail import EmailMessage
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone, translation
from redis.backoff import NoBackoff
from redis.retry import Retry

from accounts import services
from accounts.management.commands import mail_test
from accounts.models import User
from derpmgmt.lib import bells
from derpmgmt.lib import mail as lib_mail
from derpmgmt.lib.mail import LIMIT, WINDOW, MailFailed, MailLimited, deliver
from tests.accounts.conftest import mailed_code
from tests.factories import PASSWORD, UserFactory
from tests.panel import world
from tests.panel.smtp_server import SmtpServer, smtp_server

ROOT = Path(__file__).parents[2]


def send(to: str = "wei@example.com", *, is_asked: bool = True) -> None:
    deliver(EmailMessage("subject", "text", "panel@example.com", [to]), is_asked=is_asked)


@pytest.fixture
def server(settings: Any) -> Iterator[SmtpServer]:
    with smtp_server(settings) as running:
        yield running


@pytest.fixture
def redis_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bells, "client", lambda: redis.Redis(port=1, retry=Retry(NoBackoff(), 0)))


def test_no_ten_minutes_hold_more_than_five_when_mail_is_asked_for_at_random() -> None:
    chance = random.Random(7)
    sent = []
    start = timezone.now()
    with time_machine.travel(start, tick=False) as clock:
        for _ in range(400):
            clock.shift(chance.choice([0, 1, 20, 90, 400]))
            try:
                send()
            except MailLimited as limited:
                # What it says is the truth: not a second earlier, and then at once.
                if limited.wait_seconds > 1:
                    clock.shift(limited.wait_seconds - 1)
                    with pytest.raises(MailLimited):
                        send()
                    clock.shift(1)
                else:
                    clock.shift(limited.wait_seconds)
                send()
            sent.append(timezone.now())
    assert len(mail.outbox) == 400
    assert all(sent[n] - sent[n - LIMIT] >= WINDOW for n in range(LIMIT, len(sent)))


def test_each_of_a_thousand_who_ask_is_told_how_long_to_wait() -> None:
    sent, free_at = [], []
    with time_machine.travel(timezone.now().replace(microsecond=0), tick=False) as clock:
        for _ in range(1000):
            try:
                send()
            except MailLimited as limited:
                free_at.append((len(sent), timezone.now() + timedelta(seconds=limited.wait_seconds)))
            else:
                sent.append(timezone.now())
            clock.shift(1)
    # Five at once, and five more ten minutes later; everybody else was told the moment when the next one really could go.
    start = sent[0]
    assert [(moment - start).seconds for moment in sent] == [0, 1, 2, 3, 4, 600, 601, 602, 603, 604]
    assert len(mail.outbox) == len(sent)
    assert len(free_at) == 990
    assert all(moment == sent[number - LIMIT] + WINDOW for number, moment in free_at)


def test_only_five_leave_when_many_workers_send_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # Each process has turns of its own.
    monkeypatch.setattr(lib_mail, "_turns", threading.BoundedSemaphore(40))

    def try_to_send(_number: int) -> bool:
        try:
            send()
        except MailLimited:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        taken = list(pool.map(try_to_send, range(40)))
    assert sum(taken) == len(mail.outbox) == LIMIT


def test_one_address_is_one_whatever_its_case_and_others_are_free() -> None:
    for _ in range(LIMIT):
        send()
    with pytest.raises(MailLimited):
        send("Wei@Example.com")
    send("li@example.com")


def test_a_code_goes_and_other_mail_waits_when_redis_is_away(redis_is_away: None) -> None:
    send()
    with pytest.raises(MailLimited):
        send(is_asked=False)
    assert len(mail.outbox) == 1


def test_a_code_finds_a_place_however_much_other_mail_waits() -> None:
    with time_machine.travel(timezone.now(), tick=False) as clock:
        for _ in range(30):
            with suppress(MailLimited):
                for _ in range(LIMIT + 1):
                    send(is_asked=False)
            send()
            with pytest.raises(MailLimited):
                send()
            clock.shift(WINDOW)


@pytest.mark.django_db
def test_a_refused_code_says_how_long_to_wait_and_the_older_code_still_works(client: Client) -> None:
    client.cookies["django_language"] = "en"
    data = {"email": "new@example.com", "username": "", "password1": "quiet-river-42"}
    assert client.post("/accounts/signup/", data).status_code == 302
    code = mailed_code()
    for _ in range(LIMIT - 1):
        send("new@example.com")
    # allauth has a limit of its own on asking again: once in three minutes.
    with time_machine.travel(timezone.now() + timedelta(minutes=4)):
        refused = client.post("/accounts/confirm-email/", {"action": "resend"})
        assert refused.status_code == 429
        assert 350 <= int(refused["Retry-After"]) <= 360
        assert "in 6 minutes" in refused.content.decode()
        assert len(mail.outbox) == LIMIT
        client.post("/accounts/confirm-email/", {"code": code})
    assert User.objects.get().emailaddress_set.get().verified


def test_a_place_is_given_back_when_the_server_refused(server: SmtpServer) -> None:
    server.answers["RCPT"] = "450 come again"
    for _ in range(LIMIT + 2):
        with pytest.raises(MailFailed) as failure:
            send()
    assert failure.value.reason == "450 come again"
    assert not failure.value.is_final
    del server.answers["RCPT"]
    for _ in range(LIMIT):
        send()
    with pytest.raises(MailLimited):
        send()
    assert len(server.taken) == LIMIT


@pytest.mark.parametrize(
    ("verb", "answer", "is_final", "is_in_doubt"),
    [
        ("RCPT", "550 no such user", True, False),
        ("END", "554 we take no such thing", True, False),
        ("END", "451 full", False, False),
        ("MAIL", "530 sign in first", False, False),
        ("CONNECT", "421 not now", False, False),
        ("END", "", False, True),
    ],
)
def test_what_the_server_says_decides_whether_it_is_tried_again(
    server: SmtpServer, verb: str, answer: str, is_final: bool, is_in_doubt: bool
) -> None:
    server.answers[verb] = answer
    with pytest.raises(MailFailed) as failure:
        send()
    assert (failure.value.is_final, failure.value.is_in_doubt) == (is_final, is_in_doubt)
    assert answer in failure.value.reason


def test_a_mail_that_was_taken_counts_as_sent_when_the_goodbye_fails(server: SmtpServer) -> None:
    server.answers["QUIT"] = "500 what?"
    send()
    assert len(server.taken) == 1


def test_all_mail_passes_the_one_door() -> None:
    ways = ("send_mail(", ".send()", "send_messages(", "send_mass_mail", "mail_admins")
    senders = {
        str(file.relative_to(ROOT))
        for app in (
            "accounts",
            "acl",
            "billing",
            "containers",
            "derpmgmt",
            "distribution",
            "fleet",
            "serials",
        )
        for file in (ROOT / app).rglob("*.py")
        if any(way in file.read_text() for way in ways) and "django.core.mail" in file.read_text()
    }
    # The adapter only renders; its `send_mail` is allauth's hook, which leads to the door.
    assert senders == {"derpmgmt/lib/mail.py", "accounts/adapter.py"}


def test_the_command_sends_a_test_mail_and_says_so() -> None:
    out = StringIO()
    call_command("mail_test", "ops@example.com", "--json", stdout=out, stderr=StringIO())
    assert mail.outbox[0].to == ["ops@example.com"]
    assert '"address": "ops@example.com"' in out.getvalue()


@pytest.mark.parametrize(("seconds", "words"), [(1, "wait 1 second[.]"), (40, "wait 40 seconds[.]")])
def test_the_command_says_how_long_to_wait(monkeypatch: pytest.MonkeyPatch, seconds: int, words: str) -> None:
    monkeypatch.setattr(mail_test, "send_test_mail", mock.Mock(side_effect=MailLimited(seconds)))
    with translation.override("en"), pytest.raises(CommandError, match=words):
        call_command("mail_test", "ops@example.com", stdout=StringIO())


def test_the_command_gives_the_servers_words_when_it_refuses(server: SmtpServer) -> None:
    server.answers["RCPT"] = "550 relaying denied"
    with pytest.raises(CommandError, match="550 relaying denied"):
        call_command("mail_test", "ops@example.com", stdout=StringIO())
    with pytest.raises(CommandError):
        call_command("mail_test", "not an address", stdout=StringIO())


def test_the_command_says_which_server_is_away_and_no_secret(
    settings: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    with smtp_server(settings) as server:
        port = server.port
    settings.EMAIL_URL = f"smtp://me:top-secret@127.0.0.1:{port}"
    settings.EMAIL_HOST_USER, settings.EMAIL_HOST_PASSWORD = "me", "top-secret"
    with translation.override("en"), pytest.raises(CommandError) as error:
        call_command("mail_test", "ops@example.com", stdout=StringIO())
    assert error.value.returncode == 1
    assert str(error.value) == (
        f"The mail was not sent: Connection refused\nThe mail server is 127.0.0.1:{port}."
    )
    assert "top-secret" not in "".join(capfd.readouterr())


@pytest.mark.django_db
def test_an_operator_sends_himself_a_test_mail_in_the_admin(settings: Any) -> None:
    client = world.enter(User.Role.ADMIN, has_factor=True)
    mail.outbox.clear()
    response = client.post("/admin/accounts/notice/mail-test/do/", follow=True)
    assert [message.to for message in mail.outbox] == [[response.wsgi_request.user.email]]
    assert mail.outbox[0].to[0] in response.content.decode()
    with smtp_server(settings) as server:
        server.answers["MAIL"] = "535 wrong password"
        response = client.post("/admin/accounts/notice/mail-test/do/", follow=True)
        assert "535 wrong password" in response.content.decode()


@pytest.mark.django_db
def test_word_of_a_changed_password_waits_and_is_not_lost_when_the_address_is_at_its_limit() -> None:
    user = UserFactory()
    client = world.sign_in(user)
    for _ in range(LIMIT):
        send(user.email)
    mail.outbox.clear()
    data = {"oldpassword": PASSWORD, "password1": "a-new-river-43", "password2": "a-new-river-43"}
    assert client.post("/accounts/password/change/", data).status_code == 302
    notice = user.notices.get(kind="security")
    services.notices.send_notice(notice.pk)
    assert mail.outbox == []
    with time_machine.travel(timezone.now() + WINDOW + timedelta(seconds=2)):
        services.notices.send_notice(notice.pk)
    (message,) = mail.outbox
    assert message.to == [user.email]
    assert message.alternatives
