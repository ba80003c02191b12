"""What a request that was under way still writes while or after its account is closed: nothing of the person stays."""

from collections.abc import Callable
from typing import Any

import pytest
from allauth.account.models import EmailAddress
from django.contrib.auth import signals
from django.test import Client, RequestFactory

from accounts import services
from accounts.models import Channel, OperationLog, User
from accounts.services import channels
from tests.accounts.closing import do_jobs, everything
from tests.factories import PASSWORD, ChannelFactory, UserFactory, UserSessionFactory

pytestmark = pytest.mark.django_db

BARK = "bark://api.day.app/abcdefKEY1234"


@pytest.fixture
def gone() -> User:
    """The person as another tab's request read them before they closed their account."""
    user = UserFactory(email="wei@example.com")
    services.close_account(user=User.objects.get(pk=user.pk), by=None)
    return user


def test_no_channel_and_no_name_is_taken_when_the_account_was_closed_meanwhile(gone: User) -> None:
    with pytest.raises(channels.ChannelRefused):
        channels.add_push_channel(user=gone, address=BARK)
    for by in (gone, None):
        with pytest.raises(services.NotAllowed):
            services.change_user(user=gone, by=by, username="late-name", language="en", role=gone.role)
    assert "late-name" not in everything()
    do_jobs(gone)
    with pytest.raises(channels.ChannelRefused):
        channels.add_push_channel(user=gone, address=BARK)
    assert not Channel.objects.exists()


@pytest.mark.parametrize(
    ("path", "fields", "status"),
    [
        ("/account/", {"username": "late-name", "language": "en"}, 200),
        ("/account/language/", {"language": "en"}, 302),
        ("/account/channels/", {"kind": "push", "address": BARK}, 200),
    ],
)
def test_the_other_tab_gets_a_page_when_the_account_is_closed_under_it(
    sign_in: Callable[[User], Client],
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    fields: dict[str, str],
    status: int,
) -> None:
    user = UserFactory()
    client = sign_in(user)

    def be_slower(act: Callable[..., Any]) -> Callable[..., Any]:
        def late(**given: Any) -> Any:
            services.close_account(user=User.objects.get(pk=user.pk), by=None)
            return act(**given)

        return late

    monkeypatch.setattr(services, "change_user", be_slower(services.change_user))
    monkeypatch.setattr(channels, "add_push_channel", be_slower(channels.add_push_channel))
    assert client.post(path, fields).status_code == status
    user.refresh_from_db()
    assert user.closing_at
    assert user.username == f"#{user.pk}"
    assert not Channel.objects.exists()


def test_a_late_sign_in_is_logged_without_address_and_household(gone: User) -> None:
    request = RequestFactory().post("/accounts/login/", REMOTE_ADDR="203.0.113.77")
    request.session = Client().session  # type: ignore[assignment]
    for signal in (signals.user_logged_in, signals.user_logged_out):
        signal.send(sender=User, request=request, user=gone)
    for action in ("user.signed_in", "user.signed_out"):
        entry = OperationLog.objects.get(action=action)
        assert (entry.target, entry.ip, entry.subject) == (f"#{gone.pk}", "203.0.113.0", gone)


def test_a_sign_in_is_logged_with_both_as_ever(sign_in: Callable[[User], Client]) -> None:
    user = UserFactory()
    sign_in(user)
    entry = OperationLog.objects.get(action="user.signed_in")
    assert (entry.target, entry.ip) == (user.email, "127.0.0.1")


def test_what_was_written_behind_the_closing_is_cleaned_before_it_is_finished(gone: User) -> None:
    address = "wei@example.com"
    late: list[Callable[[], Any]] = [
        lambda: ChannelFactory(user=gone, address=BARK),
        lambda: EmailAddress.objects.create(user=gone, email=address),
        lambda: User.objects.filter(pk=gone.pk).update(username="late-name"),
        lambda: User.objects.filter(pk=gone.pk).update(email=address),
        lambda: UserSessionFactory(user=gone, ip="203.0.113.77"),
    ]
    for number, write in enumerate(late):
        User.objects.filter(pk=gone.pk).update(closed_at=None)
        before = len(services.closing_left(gone))
        write()
        assert len(services.closing_left(gone)) == before + 1, number
        do_jobs(gone)
        gone.refresh_from_db()
        assert gone.closed_at, number
        assert (gone.username, gone.email) == (f"#{gone.pk}", f"#{gone.pk}")
        left = everything()
        for word in (address, "late-name", "203.0.113.77", "bark://"):
            assert word not in left, (number, word)


def test_nobody_signs_in_any_more(gone: User) -> None:
    client = Client()
    client.post("/accounts/login/", {"login": "wei@example.com", "password": PASSWORD})
    assert "_auth_user_id" not in client.session
