"""Notices as operators see them: what waits, what went, what failed and why, and sending it again."""

from typing import Any

import pytest
from django.core import mail
from django.test import Client

from accounts import services
from accounts.models import Notice, OperationLog, User
from accounts.services import notices
from tests.accounts.closing import do_jobs
from tests.accounts.conftest import send_notices
from tests.accounts.ticking import confirm, tick
from tests.factories import UserFactory
from tests.panel import world
from tests.panel.smtp_server import smtp_server

pytestmark = pytest.mark.django_db

State = Notice.State
LIST = "/admin/accounts/notice/"


@pytest.fixture
def user() -> User:
    return UserFactory(email="wei@example.com")


@pytest.fixture
def admin(db: None) -> Client:
    """An admin's browser, in English; nobody has been told anything yet."""
    client = world.enter(User.Role.ADMIN, has_factor=True)
    client.post("/account/language/", {"language": "en"})
    Notice.objects.all().delete()
    return client


def tell(user: User, state: str = State.WAITING, error: str = "") -> Notice:
    """A notice in that state."""
    context = {"username": "wei", "url": "http://testserver/there"}
    key = f"k{Notice.objects.count()}"
    (notice,) = services.notify(user=user, kind="second_factor_reset", key=key, context=context)
    Notice.objects.filter(pk=notice.pk).update(state=state, error=error)
    notice.refresh_from_db()
    return notice


def said(response: Any) -> list[str]:
    return [str(message) for message in response.context["messages"]]


@pytest.mark.parametrize(
    ("state", "error", "words"),
    [
        (State.WAITING, "", "waiting"),
        (State.WAITING, "450 mailbox busy", "450 mailbox busy"),
        (State.SENDING, "", "being sent"),
        (State.SENT, "", "sent"),
        (State.FAILED, notices.IN_DOUBT, notices.IN_DOUBT),
        (State.FAILED, "550 no such user", "550 no such user"),
        (State.DROPPED, notices.OUTDATED, notices.OUTDATED),
        (State.DROPPED, notices.BARRED, notices.BARRED),
    ],
)
def test_admin_reads_state_and_reason_and_sends_again_only_what_failed(
    user: User, admin: Client, state: str, error: str, words: str
) -> None:
    notice = tell(user, state, error)
    url = f"{LIST}{notice.pk}/change/"
    for page in (admin.get(LIST).text, admin.get(url).text):
        assert words in page
        assert user.email in page
        assert "Two-factor authentication was reset" in page
        assert "second_factor_reset" not in page.replace("?kind=second_factor_reset", "")
    assert ("Send again" in admin.get(url).text) is (state == State.FAILED)
    answer = said(admin.post(f"{LIST}{notice.pk}/again/do/", follow=True))
    notice.refresh_from_db()
    if state == State.FAILED:
        assert answer == [f"“Two-factor authentication was reset” is sent to {user} again."]
        assert (notice.state, notice.error, notice.tries) == (State.WAITING, "", 0)
        mail.outbox.clear()
        send_notices()
        assert [message.to for message in mail.outbox] == [[user.email]]
        entry = OperationLog.objects.get(action="notice.sent_again")
        assert (entry.subject, entry.target) == (user, "second_factor_reset")
    else:
        refusal = "Only a notice that failed can be sent again."
        if error == notices.OUTDATED:
            refusal = "What this notice says is no longer the case; it is not sent any more."
        assert answer == [refusal]
        assert (notice.state, notice.error) == (state, error)


def test_admin_sends_many_again_and_a_second_click_does_nothing(user: User, admin: Client) -> None:
    failed = [tell(user, State.FAILED, "450 busy") for _ in range(3)]
    page = tick(admin, LIST, "again", failed)
    (done,) = said(confirm(admin, page))
    assert done.replace("<br>", "").splitlines() == [
        "3 notices are sent again.",
        *[f"{user} · Two-factor authentication was reset · e-mail"] * 3,
    ]
    (again,) = said(confirm(admin, page))
    assert again.startswith("For 3 rows nothing was left to do:")
    assert OperationLog.objects.filter(action="notice.sent_again").count() == 3


def test_notice_of_a_closed_account_is_not_sent_again(user: User, admin: Client) -> None:
    services.close_account(user=user, by=None)
    farewell = Notice.objects.get(user=user, kind="account_closed")
    Notice.objects.filter(pk=farewell.pk).update(state=State.FAILED, error="550 no such user")
    do_jobs(user)
    assert User.objects.get(pk=user.pk).closed_at
    answer = said(admin.post(f"{LIST}{farewell.pk}/again/do/", follow=True))
    assert answer == ["The account is closed and its address is no longer known."]


def test_list_says_so_when_there_is_nothing_in_it(user: User, admin: Client) -> None:
    assert "There is no such notice." in admin.get(LIST).text
    tell(user)
    assert "There is no such notice." not in admin.get(LIST).text
    assert "There is no such notice." in admin.get(LIST, {"state__exact": "failed"}).text
    assert "There is no such notice." in admin.get(LIST, {"kind": "rental_ending"}).text
    assert "There is no such notice." not in admin.get(LIST, {"kind": "second_factor_reset"}).text


def test_test_mail_says_what_is_wrong_when_the_mail_server_is_away(admin: Client, settings: Any) -> None:
    with smtp_server(settings):
        pass
    (answer,) = said(admin.post(f"{LIST}mail-test/do/", follow=True))
    assert answer == "The message was not sent: Connection refused"


def test_customers_see_their_own_in_their_history_and_nothing_here(user: User, admin: Client) -> None:
    notice = tell(user, State.FAILED, "450 busy")
    client = world.sign_in(user)
    client.post("/account/language/", {"language": "en"})
    for url in (LIST, f"{LIST}{notice.pk}/change/", f"{LIST}mail-test/do/", f"{LIST}{notice.pk}/again/do/"):
        assert client.get(url, follow=True).status_code == 403
        assert client.post(url, follow=True).status_code == 403
    assert Notice.objects.get().state == State.FAILED
    shown = client.get("/history/", {"kind": "notice"}).text
    assert "Two-factor authentication was reset" in shown
    assert "450 busy" not in shown
