"""What is left of a person whose account is closed: nothing of themselves, all that happened, and one last mail."""

import html
import re
from collections.abc import Callable
from datetime import timedelta

import pytest
from allauth.account.models import EmailAddress
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth import get_user
from django.contrib.contenttypes.models import ContentType
from django.core import mail
from django.test import Client
from django.utils import timezone, translation

from accounts import services
from accounts.models import Notice, OperationLog, User
from acl.maps.models import AclConfig, AclEvent, LiveUrl
from containers.models import Relay
from containers.services.allowances import set_relay_limits
from serials.rentals import services as serials
from serials.rentals.models import Redemption, Rental
from tests.accounts.closing import do_jobs, everything
from tests.accounts.conftest import send_notices
from tests.factories import ChannelFactory, LiveUrlFactory, UserFactory
from tests.panel import world

pytestmark = pytest.mark.django_db


def live_a_little(rental: Rental) -> str:
    """Leave traces in as many tables as there are; returns the address the account had before its present one."""
    user, email = rental.user, rental.user.email
    former = f"old-{email}"
    client = world.sign_in(user)
    client.post("/accounts/login/", {"login": email, "password": "wrong"})
    Client().post("/accounts/login/", {"login": email, "password": "wrong"})
    services.log_operation(
        by=user,
        action="email.changed",
        target=email,
        subject=user,
        ip="2001:db8:1:2::3",
        before=former,
        after=email,
    )
    services.log_operation(
        by=None, action="user.sign_in_failed", target=former, is_success=False, ip="198.51.100.9"
    )
    services.change_user(user=user, by=user, username="secret-name", language="en", role=user.role)
    admin = UserFactory(email=f"admin-{user.pk}@example.org", role=User.Role.ADMIN)
    services.log_operation(
        by=admin, action="rental.renewed", target=email, subject=user, ip="192.0.2.44", note=f"for {email}"
    )
    until = timezone.now() + timedelta(days=90)
    serials.renew_rental(rental=rental, until=until, by=admin, note=f"paid by {email}")
    serials.set_limits(rental=rental, caps={"cap_rate": 9}, note=f"for {email}", by=admin)
    serials.add_traffic(rental=rental, size_bytes=1, note=f"for {email}", by=admin)
    for relay in rental.relays.all():
        set_relay_limits(relay=relay, caps={"cap_rate": 8}, note=f"for {email}", by=admin)
    EmailAddress.objects.create(user=user, email=f"next-{email}", verified=False)
    services.enrol_second_factor(user=user, secret="JBSWY3DPEHPK3PXP")
    ChannelFactory(user=user, address=f"bark://{email}")
    services.notify(user=user, kind="rental_ending", key="k1", context={})
    for key in ("sent", "waiting"):
        text = {"mail_subject": "Password", "mail_text": f"{email} at 203.0.113.77", "mail_html": ""}
        services.notify(user=user, kind="security", key=key, context=text, is_mail_only=True)
    Notice.objects.filter(key="sent").update(state=Notice.State.SENT)
    broken = services.notify(user=user, kind="rental_ended", key="k2", context={}, is_mail_only=True)[0]
    Notice.objects.filter(pk=broken.pk).update(state=Notice.State.FAILED, error=f"550 <{email}> is unknown")
    LogEntry.objects.create(
        user=admin,
        content_type=ContentType.objects.get_for_model(Rental),
        object_id=str(rental.pk),
        object_repr=email,
        action_flag=CHANGE,
    )
    AclEvent.objects.filter(rental=rental).update(browser="Firefox", place="Shanghai")
    LiveUrl.objects.filter(rental=rental).delete()
    LiveUrlFactory(rental=rental, last_ip="198.51.100.7", last_browser="Firefox")
    return former


def test_no_personal_data_is_left_in_any_table_when_an_account_is_closed(rental: Rental) -> None:
    former = live_a_little(rental)
    user = User.objects.get(pk=rental.user_id)
    email = user.email
    assert email in everything()
    assert services.close_account(user=user, by=user, ip="203.0.113.77")
    do_jobs(user)
    left = everything()
    for word in (
        email,
        former,
        f"next-{email}",
        "secret-name",
        "203.0.113.77",
        "198.51.100.7",
        "2001:db8:1:2",
        "bark://",
        "live-secret",
        "firefox",
    ):
        assert word not in left, word
    # The farewell names their number; a mail that waited when they closed may leave before or after it.
    farewells = [message for message in mail.outbox if re.search(rf"\b{user.pk}\b", message.body)]
    assert [message.to for message in farewells] == [[email]]
    user.refresh_from_db()
    assert user.closed_at


def test_notes_go_also_when_the_rental_was_closed_before_its_account(rental: Rental) -> None:
    until = timezone.now() + timedelta(days=90)
    serials.renew_rental(rental=rental, until=until, by=None, note="for Wei")
    Rental.objects.filter(pk=rental.pk).update(status=Rental.Status.CLOSED, closed_at=timezone.now())
    user = rental.user
    services.close_account(user=user, by=None)
    with translation.override("en"):
        assert "The notes about the rental are not deleted yet." in services.closing_left(user)
    do_jobs(user)
    user.refresh_from_db()
    assert user.closed_at
    assert not Redemption.objects.exclude(note="").exists()


def test_history_is_kept_when_an_account_is_closed(rental: Rental) -> None:
    live_a_little(rental)
    user = User.objects.get(pk=rental.user_id)
    before = OperationLog.objects.filter(subject=user).count()
    redeemed = list(Redemption.objects.filter(rental=rental).values())
    assert {row.pop("note") for row in redeemed} != {""}
    versions = AclConfig.objects.filter(rental=rental).count()
    services.close_account(user=user, by=None)
    do_jobs(user)
    user.refresh_from_db()
    rental.refresh_from_db()
    assert user.closed_at
    assert rental.status == Rental.Status.CLOSED
    assert OperationLog.objects.filter(subject=user).count() > before
    kept = list(Redemption.objects.filter(rental=rental).values())
    # Who wrote a note may have named the person.
    assert {row.pop("note") for row in kept} == {""}
    assert kept == redeemed
    assert Relay.objects.filter(rental=rental, status=Relay.Status.RELEASED).count() == 3
    assert AclConfig.objects.filter(rental=rental).count() == versions
    assert AclEvent.objects.filter(rental=rental, kind=AclEvent.Kind.WITHDRAWN).count() == 1
    assert not AclConfig.objects.filter(rental=rental, is_active=True).exists()
    assert all(not config.derp_map.get("Regions") for config in AclConfig.objects.filter(rental=rental))
    # An admin's own traces are theirs, and stay.
    assert OperationLog.objects.filter(
        action="rental.renewed", ip="192.0.2.44", target=f"#{user.pk}"
    ).exists()


def test_addresses_of_others_stay_in_the_log_when_they_only_look_alike() -> None:
    user, other = UserFactory(email="li@example.com"), UserFactory(email="wang.li@example.com")
    services.log_operation(
        by=user, action="x", target="wang.li@example.com", subject=other, note="li@example.com.cn"
    )
    services.close_account(user=user, by=None)
    entry = OperationLog.objects.get(action="x")
    assert (entry.target, entry.detail["note"]) == ("wang.li@example.com", "li@example.com.cn")


@pytest.mark.parametrize(
    ("ip", "kept"),
    [("203.0.113.77", "203.0.113.0"), ("2001:db8:1:2:3::4", "2001:db8:1::"), ("", None), (None, None)],
)
def test_only_the_network_of_an_ip_address_is_kept(ip: str | None, kept: str | None) -> None:
    assert services.shorten_ip(ip) == kept


def test_same_address_signs_up_anew_when_its_account_was_closed(sign_in: Callable[[User], Client]) -> None:
    old = UserFactory(email="li@example.com")
    services.close_account(user=old, by=None)
    new = UserFactory(email="li@example.com")
    assert new.pk != old.pk
    assert get_user(sign_in(new)) == new
    services.close_account(user=new, by=None)
    assert UserFactory(email="li@example.com").pk not in {old.pk, new.pk}


def test_farewell_keeps_its_address_until_it_has_left(
    rental: Rental, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, email = rental.user, rental.user.email
    services.close_account(user=user, by=user)
    farewell = Notice.objects.get(kind="account_closed")
    assert farewell.address == email
    send_notices()
    farewell.refresh_from_db()
    assert (farewell.state, farewell.address) == (Notice.State.SENT, "")
    assert [message.to for message in mail.outbox[-1:]] == [[email]]


@pytest.mark.parametrize("language", ["en", "zh-hans"])
def test_farewell_asks_nobody_in_who_cannot_sign_in_any_more(rental: Rental, language: str) -> None:
    User.objects.filter(pk=rental.user_id).update(language=language)
    services.close_account(user=rental.user, by=None)
    send_notices()
    message = mail.outbox[-1]
    page = str(message.alternatives[0][0])
    assert str(rental.user_id) in message.body
    assert str(rental.user_id) in page
    # Who writes is still said, with the front page's address, in the last line.
    assert re.findall(r'href="([^"]*)"', page) == ["http://testserver"]
    assert "http" not in message.body


@pytest.mark.parametrize("case", ["runs", "ended", "never"])
def test_farewell_speaks_of_relays_only_to_who_had_some(rental: Rental, case: str) -> None:
    user = UserFactory() if case == "never" else rental.user
    if case == "ended":
        past = timezone.now() - timedelta(days=30)
        Rental.objects.filter(pk=rental.pk).update(status="expired", ends_at=past, runs_until=past)
    User.objects.filter(pk=user.pk).update(language="en")
    services.close_account(user=User.objects.get(pk=user.pk), by=None)
    words = services.notices.render(Notice.objects.get(kind="account_closed"))
    for text in (words.text, html.unescape(words.html)):
        assert "Your account is closed, and your e-mail address is deleted" in text
        assert ("Your map is gone" in text) == (case != "never")
        assert ("policy file" in text) == (case != "never")
        assert ("relays" in text) == (case != "never")


def test_nothing_else_is_sent_when_the_account_is_closed(rental: Rental) -> None:
    services.notify(user=rental.user, kind="rental_ended", key="waiting", context={}, is_mail_only=True)
    services.close_account(user=rental.user, by=None)
    user = User.objects.get(pk=rental.user_id)
    services.notify(user=user, kind="rental_ended", key="late", context={}, is_mail_only=True)
    sent = len(mail.outbox)
    send_notices()
    assert len(mail.outbox) == sent + 1
    assert set(Notice.objects.filter(user=user, kind="rental_ended").values_list("state", flat=True)) == {
        "dropped"
    }
