"""Notices that are no longer the case: whatever the worker was doing, they do not leave afterwards."""

from contextlib import nullcontext
from datetime import timedelta
from typing import Any

import django_rq
import pytest
import time_machine
from django.core import mail
from django.db import OperationalError, transaction
from django.utils import timezone

from accounts import jobs, services
from accounts.models import Notice, User
from accounts.services import notices
from derpmgmt.lib.mail import LIMIT
from tests.accounts.conftest import send_notices
from tests.factories import UserFactory
from tests.panel.killing import dies_at_line
from tests.panel.smtp_server import smtp_server

pytestmark = pytest.mark.django_db

State = Notice.State
SENDING = ("accounts/services/notices.py", "derpmgmt/lib/mail.py")
KINDS = frozenset({"rental_ended"})


@pytest.fixture
def user() -> User:
    return UserFactory()


def tell(user: User, key: str = "one", **fields: Any) -> Notice:
    context = {"ends_at": timezone.now(), "url": "http://testserver/there"}
    (made,) = services.notify(user=user, kind="rental_ended", key=key, context=context, **fields)
    return made


def take_back(user: User) -> int:
    with transaction.atomic():
        return services.drop_notices(user=user, kinds=KINDS)


def live_on() -> None:
    """What the sweep and the queue would still do in the days to come."""
    for hours in (0, 1, 2, 10, 100):
        with time_machine.travel(timezone.now() + timedelta(hours=hours)):
            notices.recover_lost(timezone.now())
            send_notices()


def ended(notice: Notice) -> tuple[str, str, str]:
    notice.refresh_from_db()
    return notice.state, notice.error, notice.address


OUTDATED = (State.DROPPED, notices.OUTDATED, "")


@pytest.mark.slow
def test_a_notice_that_was_taken_back_does_not_leave_when_the_worker_dies_at_any_line(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "Heartbeat", lambda *_beats: nullcontext())
    for number in range(1000):
        mail.outbox.clear()
        Notice.objects.all().delete()
        django_rq.get_connection("default").flushdb()
        notice = tell(user)
        if not dies_at_line(number, SENDING, lambda pk=notice.pk: jobs.send_notice(pk)):
            break
        has_left = len(mail.outbox)
        take_back(user)
        live_on()
        assert len(mail.outbox) == has_left, number
        notice.refresh_from_db()
        assert notice.state in {State.DROPPED, State.SENT}, number
    assert number > 50


def test_a_notice_that_was_taken_back_while_the_worker_connects_does_not_leave(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    notice, render = tell(user), notices.render

    def slow(row: Notice) -> notices.Words:
        assert take_back(user) == 1
        return render(row)

    monkeypatch.setattr(notices, "render", slow)
    jobs.send_notice(notice.pk)
    live_on()
    assert mail.outbox == []
    assert ended(notice) == OUTDATED


def test_a_notice_that_was_taken_back_at_the_limit_does_not_leave(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(LIMIT - 1):
        jobs.send_notice(tell(user, key=f"n{number}").pk)
    notice, let_wait = tell(user), notices._let_wait

    def slow(*args: Any) -> None:
        take_back(user)
        let_wait(*args)

    monkeypatch.setattr(notices, "_let_wait", slow)
    mail.outbox.clear()
    jobs.send_notice(notice.pk)
    live_on()
    assert mail.outbox == []
    assert ended(notice) == OUTDATED


@pytest.mark.parametrize(("stage", "answer"), [("RCPT", "450 busy"), ("RCPT", "550 no"), ("END", "")])
def test_a_notice_that_is_taken_back_while_it_is_handed_over_is_not_tried_again(
    user: User, settings: Any, monkeypatch: pytest.MonkeyPatch, stage: str, answer: str
) -> None:
    with smtp_server(settings) as server:
        server.answers[stage] = answer
        notice, settle = tell(user), notices._record_failure

        def late(*args: Any) -> None:
            # It may be leaving: nobody counts on its having been stopped.
            assert take_back(user) == 0
            settle(*args)

        monkeypatch.setattr(notices, "_record_failure", late)
        jobs.send_notice(notice.pk)
        tries = len(server.taken)
        del server.answers[stage]
        live_on()
        assert len(server.taken) == tries
    assert ended(notice) == OUTDATED
    # Told again, it goes out only when it cannot have arrived.
    again = services.notify(user=user, kind="rental_ended", key="one", context={})
    assert len(again) == (0 if stage == "END" else 1)


def test_a_notice_that_left_at_the_moment_when_it_was_taken_back_is_shown_as_sent(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    notice, deliver = tell(user), notices.deliver

    def slow(*args: Any, **options: Any) -> None:
        deliver(*args, **options)
        assert take_back(user) == 0

    monkeypatch.setattr(notices, "deliver", slow)
    jobs.send_notice(notice.pk)
    live_on()
    assert len(mail.outbox) == 1
    assert ended(notice) == (State.SENT, "", "")


@pytest.mark.parametrize("error", ["450 busy", notices.IN_DOUBT])
def test_a_notice_that_failed_is_not_sent_again_when_it_is_no_longer_the_case(user: User, error: str) -> None:
    notice = tell(user)
    Notice.objects.update(state=State.FAILED, error=error)
    assert take_back(user) == 0
    assert ended(notice) == OUTDATED
    with pytest.raises(services.NoticeRefused, match="情况已有变化"):
        services.send_again(notice=notice, by=user)
    live_on()
    assert mail.outbox == []


def test_a_notice_that_failed_is_not_sent_again_after_the_time_for_which_it_fits(user: User) -> None:
    now = timezone.now()
    notice = tell(user, fits_until=now + timedelta(days=1))
    Notice.objects.update(state=State.FAILED, error="450 busy")
    refused = pytest.raises(services.NoticeRefused, match="情况已有变化")
    with time_machine.travel(now + timedelta(days=2)), refused:
        services.send_again(notice=notice, by=user)
    services.send_again(notice=notice, by=user)
    assert ended(notice)[0] == State.WAITING


def test_what_was_taken_back_is_told_again_by_the_next_worker_alone(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    notice, render = tell(user), notices.render
    monkeypatch.setattr(notices, "worker_name", iter(["first", "second"]).__next__)
    rendered: list[int] = []

    def slow(row: Notice) -> notices.Words:
        rendered.append(row.pk)
        if len(rendered) == 1:
            take_back(user)
            tell(user)
            jobs.send_notice(row.pk)
        return render(row)

    monkeypatch.setattr(notices, "render", slow)
    jobs.send_notice(notice.pk)
    assert len(rendered) == 2
    assert len(mail.outbox) == 1
    assert ended(notice)[0] == State.SENT


def test_a_database_that_fails_for_a_moment_costs_a_try_and_no_notice(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    notice, render = tell(user), notices.render

    def locked(_row: Notice) -> notices.Words:
        raise OperationalError("database is locked")

    monkeypatch.setattr(notices, "render", locked)
    jobs.send_notice(notice.pk)
    notice.refresh_from_db()
    assert (notice.state, notice.error, notice.handed_at) == (State.WAITING, notices.INTERNAL, None)
    assert notice.send_after > timezone.now()
    monkeypatch.setattr(notices, "render", render)
    live_on()
    assert len(mail.outbox) == 1
    assert ended(notice)[0] == State.SENT


def test_a_database_that_fails_again_and_again_is_shown_in_the_end(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    notice = tell(user)

    def locked(_row: Notice) -> notices.Words:
        raise OperationalError("database is locked")

    monkeypatch.setattr(notices, "render", locked)
    for days in range(len(notices.BACKOFF) + 3):
        with time_machine.travel(timezone.now() + timedelta(days=2 * days)):
            send_notices()
    notice.refresh_from_db()
    assert (notice.state, notice.error) == (State.FAILED, notices.INTERNAL)
    assert notice.tries == len(notices.BACKOFF) + 1


def test_a_database_that_fails_after_the_hand_over_leaves_it_to_a_person(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    notice, deliver = tell(user), notices.deliver

    def broken(*args: Any, **options: Any) -> None:
        deliver(*args, **options)
        raise OperationalError("gone away")

    monkeypatch.setattr(notices, "deliver", broken)
    jobs.send_notice(notice.pk)
    live_on()
    assert len(mail.outbox) == 1
    assert ended(notice)[:2] == (State.FAILED, notices.INTERNAL)
