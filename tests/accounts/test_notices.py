"""Notices: written once, sent once, whatever dies, doubles or refuses."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import datetime, timedelta
from email import message_from_bytes
from pathlib import Path
from typing import Any

import django_rq
import pytest
import time_machine
from django.core import mail
from django.db import connection, transaction
from django.utils import timezone

from accounts import jobs, services, wordlist
from accounts.models import Channel, Notice, OperationLog, User
from accounts.services import channels, notices
from derpmgmt.lib.jobs import LOST_AFTER
from derpmgmt.lib.mail import LIMIT, WINDOW
from tests.factories import UserFactory
from tests.panel.killing import dies_at_line
from tests.panel.smtp_server import SmtpServer, smtp_server

pytestmark = pytest.mark.django_db

TEMPLATES = Path(__file__).parents[2] / "templates" / "notices"
State = Notice.State
SENDING = ("accounts/services/notices.py", "derpmgmt/lib/mail.py")


@pytest.fixture
def user() -> User:
    return UserFactory(email="wei@example.com")


@pytest.fixture
def server(settings: Any) -> Iterator[SmtpServer]:
    with smtp_server(settings) as running:
        yield running


def tell(user: User, key: str = "one", **fields: Any) -> Notice:
    """A notice of a kind that needs nothing but its address."""
    context = {"username": "wei", "url": "http://testserver/there"}
    (made,) = services.notify(user=user, kind="second_factor_reset", key=key, context=context, **fields)
    return made


def run_due() -> None:
    """The sweep, and what it rings for; each bell rings twice, as bells may."""
    notices.recover_lost(timezone.now())
    for pk in notices.due_notices(timezone.now()):
        jobs.send_notice(pk)
        jobs.send_notice(pk)


def states() -> list[str]:
    return list(Notice.objects.order_by("pk").values_list("state", flat=True))


def test_a_notice_is_sent_once_in_both_forms_and_his_language(user: User) -> None:
    user.language = "en"
    user.save()
    notice = tell(user)
    run_due()
    run_due()
    (message,) = mail.outbox
    notice.refresh_from_db()
    assert (notice.state, notice.tries, notice.address) == (State.SENT, 1, "")
    assert message.to == [user.email]
    assert message.subject == "Your two-factor authentication was reset"
    assert "http://testserver/there" in str(message.body)
    assert 'href="http://testserver/there"' in message.alternatives[0][0]
    assert message.extra_headers["Auto-Submitted"] == "auto-generated"


def test_a_key_makes_one_notice_for_a_person_however_often_it_is_told(user: User) -> None:
    tell(user)
    assert services.notify(user=user, kind="second_factor_reset", key="one", context={}) == []
    # The same key of another person is another one.
    tell(UserFactory(email="li@example.com"))
    assert Notice.objects.count() == 2


@pytest.mark.django_db(transaction=True)
def test_nothing_is_told_when_the_transaction_does_not_hold(user: User) -> None:
    with transaction.atomic():
        tell(user)
        transaction.set_rollback(True)
    assert not Notice.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_the_bell_rings_for_the_queue_of_its_own_and_the_sweep_rings_when_it_was_lost(user: User) -> None:
    notice = tell(user)
    queue = django_rq.get_queue("notices")
    assert [(job.func_name, job.args) for job in queue.jobs] == [("accounts.jobs.send_notice", (notice.pk,))]
    queue.empty()
    jobs.sweep_notices()
    jobs.sweep_notices()
    assert [job.args for job in queue.jobs] == [(notice.pk,)]


@pytest.mark.slow
def test_a_notice_leaves_once_when_the_worker_dies_at_any_line(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The heart of a dead worker does not beat; here its process lives on.
    monkeypatch.setattr(notices, "Heartbeat", lambda *_beats: nullcontext())
    doubtful, lines = 0, 0
    for number in range(1000):
        mail.outbox.clear()
        Notice.objects.all().delete()
        # The address begins each time with nothing counted.
        django_rq.get_connection("default").flushdb()
        notice = tell(user)
        if not dies_at_line(number, SENDING, run_due):
            break
        lines += 1
        for minutes in (1, 20, 60):
            with time_machine.travel(timezone.now() + timedelta(minutes=minutes)):
                run_due()
        notice.refresh_from_db()
        if notice.state == State.FAILED:
            # It died with the message in its hand: nobody sends it again unasked, and a person sees it.
            doubtful += 1
            assert notice.error == notices.IN_DOUBT
            assert len(mail.outbox) <= 1
        else:
            assert (notice.state, len(mail.outbox)) == (State.SENT, 1), number
    assert lines > 60
    assert 0 < doubtful < lines / 3


@pytest.mark.django_db(transaction=True)
def test_only_one_of_many_workers_sends_it_when_the_bell_rings_for_all(user: User) -> None:
    notice = tell(user)

    def work(_number: int) -> None:
        try:
            jobs.send_notice(notice.pk)
        finally:
            connection.close()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(12)))
    assert len(mail.outbox) == 1
    assert Notice.objects.get().tries == 1


@pytest.mark.django_db(transaction=True)
def test_it_is_told_once_when_two_tell_it_at_the_same_moment(user: User) -> None:
    def work(_number: int) -> int:
        try:
            with transaction.atomic():
                return len(services.notify(user=user, kind="security", key="same", context={}))
        finally:
            connection.close()

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(work, range(12))) == 1
    assert Notice.objects.count() == 1


def test_a_worker_that_was_held_for_dead_sends_nothing_when_it_wakes(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    notice = tell(user)
    render = notices.render

    def sleepy(row: Notice) -> notices.Words:
        Notice.objects.update(heartbeat_at=timezone.now() - LOST_AFTER * 2)
        notices.recover_lost(timezone.now())
        return render(row)

    monkeypatch.setattr(notices, "render", sleepy)
    jobs.send_notice(notice.pk)
    assert mail.outbox == []
    monkeypatch.undo()
    run_due()
    assert len(mail.outbox) == 1
    assert states() == [State.SENT]


def test_a_refused_notice_is_tried_again_later_and_later_and_then_shown(
    user: User, server: SmtpServer
) -> None:
    server.answers["RCPT"] = "450 mailbox busy"
    notice = tell(user)
    waits = []
    with time_machine.travel(timezone.now(), tick=False) as clock:
        for _ in range(len(notices.BACKOFF) + 3):
            run_due()
            notice.refresh_from_db()
            if notice.state != State.WAITING:
                break
            waits.append(notice.send_after - timezone.now())
            clock.move_to(notice.send_after)
    assert waits == notices.BACKOFF
    assert (notice.state, notice.error) == (State.FAILED, "450 mailbox busy")
    del server.answers["RCPT"]
    services.send_again(notice=notice, by=user)
    run_due()
    assert states() == [State.SENT]
    assert len(server.taken) == 1
    with pytest.raises(services.NoticeRefused):
        services.send_again(notice=notice, by=user)


def test_a_notice_fails_at_once_when_the_address_does_not_exist(user: User, server: SmtpServer) -> None:
    server.answers["RCPT"] = "550 no such user"
    tell(user)
    run_due()
    assert Notice.objects.get().error == "550 no such user"
    assert states() == [State.FAILED]


def test_a_notice_is_not_sent_again_when_the_line_broke_while_it_was_handed_over(
    user: User, server: SmtpServer
) -> None:
    server.answers["END"] = ""
    tell(user)
    for hours in (0, 1, 30):
        with time_machine.travel(timezone.now() + timedelta(hours=hours)):
            run_due()
    assert len(server.taken) == 1
    assert Notice.objects.get().error == notices.IN_DOUBT


def test_every_try_carries_the_same_message_id(user: User, server: SmtpServer) -> None:
    server.answers["END"] = "451 later"
    tell(user)
    run_due()
    del server.answers["END"]
    with time_machine.travel(timezone.now() + timedelta(minutes=2)):
        run_due()
    ids = {message_from_bytes(raw)["Message-ID"] for raw in server.taken}
    assert len(server.taken) == 2
    assert len(ids) == 1


@pytest.mark.slow
def test_many_notices_to_one_address_all_arrive_and_never_more_than_five_in_ten_minutes(user: User) -> None:
    # More than twice what is rung for at once. The rule does not hang on the database; playing all of them once is enough.
    count = 500 if connection.vendor == "sqlite" else 200
    for number in range(count):
        tell(user, key=f"n{number}")
    other = UserFactory(email="li@example.com")
    sent: list[datetime] = []
    with time_machine.travel(timezone.now(), tick=False) as clock:
        tell(other)
        for round_ in range(20 + count * 3 // 10):
            before = len(mail.outbox)
            run_due()
            sent += [timezone.now()] * sum(message.to == [user.email] for message in mail.outbox[before:])
            if round_ == 2:
                # Nobody else waits behind them.
                assert sum(message.to == [other.email] for message in mail.outbox) == 1
            clock.shift(WINDOW / 2 if round_ < count // 10 else WINDOW)
    assert len(sent) == count
    assert all(sent[n] - sent[n - LIMIT] >= WINDOW for n in range(LIMIT, count))
    # In the order in which they were told.
    own = Notice.objects.filter(user=user).order_by("sent_at", "pk").values_list("key", flat=True)
    assert list(own) == [f"n{number}" for number in range(count)]
    assert set(states()) == {State.SENT}


def test_a_banned_person_is_told_nothing_but_farewells(user: User) -> None:
    services.notify(user=user, kind="rental_ended", key="x", context={"ends_at": timezone.now()})
    tell(user)
    services.ban_user(user=user, by=None)
    run_due()
    assert states() == [State.DROPPED, State.SENT]
    assert Notice.objects.get(kind="rental_ended").error == notices.BARRED


def test_a_farewell_goes_to_the_address_as_it_was(user: User) -> None:
    tell(user)
    user.email = "gone@closed.invalid"
    user.closing_at = user.closed_at = timezone.now()
    user.save()
    run_due()
    assert [message.to for message in mail.outbox] == [["wei@example.com"]]
    assert Notice.objects.get().address == ""


def test_a_bug_in_a_text_is_shown_and_does_not_hold_up_the_others(user: User) -> None:
    services.notify(user=user, kind="no_such_kind", key="x", context={})
    tell(user)
    run_due()
    assert states() == [State.FAILED, State.SENT]
    assert Notice.objects.get(key="x").error == notices.INTERNAL


def test_what_waits_can_be_taken_back(user: User) -> None:
    services.notify(user=user, kind="rental_ended", key="x", context={"ends_at": timezone.now()})
    tell(user)
    # Farewells stay, unless they are named.
    assert services.drop_notices(user=user) == 1
    tell(user, key="two")
    run_due()
    assert states() == [State.DROPPED, State.SENT, State.SENT]
    tell(user, key="three")
    assert services.drop_notices(user=user, kinds=frozenset({"second_factor_reset"})) == 1


def test_everybody_sees_his_own_notices_and_admins_all(user: User) -> None:
    other, boss = (
        UserFactory(email="li@example.com"),
        UserFactory(email="boss@example.com", role=User.Role.ADMIN),
    )
    tell(user)
    assert Notice.objects.visible_to(user).count() == 1
    assert Notice.objects.visible_to(other).count() == 0
    assert Notice.objects.visible_to(boss).count() == 1


def test_every_kind_has_its_three_texts_and_a_name() -> None:
    files = {file.name for file in TEMPLATES.iterdir()} - {"base_message.txt", "base_message.html"}
    files = {name for name in files if not name.startswith("_")}  # parts of several
    kinds = {name.rpartition("_")[0] for name in files}
    assert kinds == wordlist.NOTICES.keys()
    wanted = {f"{kind}_{part}" for kind in kinds for part in ("subject.txt", "message.txt", "message.html")}
    assert wanted == files


def test_addresses_of_notices_and_channels_are_encrypted_at_rest(user: User) -> None:
    tell(user)
    channels.add_push_channel(user=user, address="schan://SCT12345TabcdefGHIJKLmnop")
    for table, column in (("accounts_notice", "address"), ("accounts_channel", "address")):
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT {column} FROM {table}")  # noqa: S608
            (stored,) = cursor.fetchone()
        assert "wei@example.com" not in stored
        assert "SCT12345" not in stored
        assert len(stored) > 60
    assert "SCT12345" not in json.dumps(list(OperationLog.objects.values("target", "detail")), default=str)
    assert str(Channel.objects.get()).endswith("••••mnop")
