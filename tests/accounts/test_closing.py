"""Closing an account: who may, what stops it, what is left of the person, and that it happens once whatever dies meanwhile."""

import json
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from io import StringIO
from typing import Any

import pytest
from allauth.account.models import EmailAddress
from django.apps import apps
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth import get_user
from django.contrib.contenttypes.models import ContentType
from django.core import mail
from django.core.management import CommandError, call_command
from django.db import IntegrityError, connection, transaction
from django.test import Client
from django.utils import timezone, translation

from accounts import services
from accounts.models import Channel, Notice, OperationLog, User
from accounts.services import closing
from acl.models import AclConfig, AclEvent, LiveUrl
from containers.models import Relay
from containers.services.planning import plan_relays
from containers.services.relays import record_released
from derpmgmt import flow
from derpmgmt.lib import queue
from derpmgmt.lib.mail import MailFailed
from serials.models import Redemption, Rental
from serials.services import AccountBarred, redeem_serial, renew_rental, sweep_rentals
from serials.services import closing as automatic
from tests.accounts.conftest import PASSWORD
from tests.panel import world

pytestmark = pytest.mark.django_db

Answer = Callable[[str, Callable[[User], list[Any]]], None]
DAY = timedelta(days=1)


@pytest.fixture
def rental() -> Rental:
    return world.make_customer()


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Answer:
    """Has a question answered by one more function."""

    def add(question: str, function: Callable[[User], list[Any]]) -> None:
        monkeypatch.setitem(queue._answers, question, [*queue._answers[question], function])

    return add


@pytest.fixture
def announced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The facts that are announced."""
    facts: list[tuple[str, int]] = []
    monkeypatch.setattr(queue, "announce", lambda fact, pk: facts.append((fact, pk)))
    return facts


def confirm(client: Client) -> None:
    """Type the password again, as allauth asks for before what cannot be undone."""
    response = client.post("/accounts/reauthenticate/", {"password": PASSWORD})
    assert response.status_code == 302


def close_by_page(client: Client) -> Any:
    return client.post("/account/close/", {"is_sure": "on"})


def send_notices() -> None:
    """What the queue does with the notices that wait."""
    for notice in Notice.objects.filter(state=Notice.State.WAITING):
        services.notices.send_notice(notice.pk)


def do_jobs(user: User, *, are_hosts_there: bool = True) -> None:
    """What `account_closing` rings for, the relays' removal, and the sweep."""
    for ring in flow.JOBS["account_closing"]:
        ring.job(user.pk)
    for rental in Rental.objects.filter(user=user):
        plan_relays(rental_pk=rental.pk)
    if are_hosts_there:
        for relay in Relay.objects.filter(rental__user=user, status=Relay.Status.REMOVING):
            record_released(relay=relay, now=timezone.now())
    send_notices()
    closing.sweep_closing(now=timezone.now())


def told(user: User, kind: str = "account_closing") -> int:
    return Notice.objects.filter(user=user, kind=kind, channel=Notice.By.EMAIL).count()


def everything() -> str:
    """All rows of all tables as one text, what is encrypted in the clear."""
    rows = []
    for model in apps.get_models(include_auto_created=True):
        if not model._meta.managed:
            continue
        for row in model._default_manager.all():
            values = {field.attname: getattr(row, field.attname) for field in model._meta.concrete_fields}
            if model._meta.label == "sessions.Session":
                values["session_data"] = row.get_decoded()
            rows.append(f"{model._meta.label} {values}")
    return "\n".join(rows).lower()


# By the person himself


def test_account_is_closed_when_its_owner_confirms(rental: Rental) -> None:
    user, here, elsewhere = rental.user, world.sign_in(rental.user), world.sign_in(rental.user)
    response = here.get("/account/close/")
    assert response["Location"].startswith("/accounts/reauthenticate/")
    confirm(here)
    page = here.get("/account/close/")
    assert page.context["losses"]
    assert close_by_page(here)["Location"] == "/account/closed/"
    assert here.get("/account/closed/").status_code == 200
    assert not get_user(here).is_authenticated
    assert not get_user(elsewhere).is_authenticated
    user.refresh_from_db()
    assert user.closing_at
    assert not user.is_active
    here.post("/accounts/login/", {"login": rental.user.email, "password": PASSWORD})
    assert not get_user(here).is_authenticated


def test_nothing_is_closed_when_the_password_was_not_asked_again(rental: Rental) -> None:
    client = world.sign_in(rental.user)
    response = close_by_page(client)
    assert response["Location"].startswith("/accounts/reauthenticate/")
    wrong = client.post("/accounts/reauthenticate/", {"password": "something-else"})
    assert wrong.status_code == 200
    rental.user.refresh_from_db()
    assert rental.user.closing_at is None


def test_click_is_not_lost_when_the_password_is_asked_in_between(rental: Rental) -> None:
    client = world.sign_in(rental.user)
    close_by_page(client)
    response = client.post(
        "/accounts/reauthenticate/", {"password": PASSWORD, "next": "/account/close/"}, follow=True
    )
    assert response.redirect_chain[-1][0] == "/account/closed/"
    rental.user.refresh_from_db()
    assert rental.user.closing_at


def test_nothing_is_closed_when_the_box_is_not_ticked(rental: Rental) -> None:
    client = world.sign_in(rental.user)
    confirm(client)
    assert client.post("/account/close/", {}).status_code == 200
    rental.user.refresh_from_db()
    assert rental.user.closing_at is None


def test_reasons_are_shown_when_something_is_open(rental: Rental, answer: Answer) -> None:
    answer("closing_reasons", lambda user: [f"Balance of {user.pk}: 3.00", "An order is open."])
    client = world.sign_in(rental.user)
    confirm(client)
    for response in (client.get("/account/close/"), close_by_page(client)):
        text = response.content.decode()
        assert f"Balance of {rental.user_id}: 3.00" in text
        assert "An order is open." in text
        assert 'name="is_sure"' not in text
    rental.user.refresh_from_db()
    assert rental.user.closing_at is None
    assert get_user(client) == rental.user


def test_second_click_does_nothing_when_the_first_has_closed_the_account(rental: Rental) -> None:
    first, second = world.sign_in(rental.user), Client()
    confirm(first)
    second.cookies["sessionid"] = first.cookies["sessionid"].value
    assert close_by_page(first)["Location"] == "/account/closed/"
    assert close_by_page(second)["Location"].startswith("/accounts/login/")
    user = User.objects.get(pk=rental.user_id)
    assert not services.close_account(user=user, by=None)
    assert OperationLog.objects.filter(action="user.closing").count() == 1
    assert told(user, "account_closed") == 1


# What is left


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
    admin = services.create_user(email=f"admin-{user.pk}@example.org", role=User.Role.ADMIN)
    services.log_operation(
        by=admin, action="rental.renewed", target=email, subject=user, ip="192.0.2.44", note=f"for {email}"
    )
    EmailAddress.objects.create(user=user, email=f"next-{email}", verified=False)
    services.enrol_second_factor(user=user, secret="JBSWY3DPEHPK3PXP")
    Channel.objects.create(
        user=user,
        kind=Channel.Kind.PUSH,
        label="bark",
        address=f"bark://{email}",
        address_hash="x",
        confirmed_at=timezone.now(),
    )
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
    LiveUrl.objects.create(
        rental=rental, secret_hash="x", secret="live-secret", last_ip="198.51.100.7", last_browser="Firefox"
    )
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
    # The farewell names his number; a mail that waited when he closed may leave before or after it.
    farewells = [message for message in mail.outbox if re.search(rf"\b{user.pk}\b", message.body)]
    assert [message.to for message in farewells] == [[email]]
    user.refresh_from_db()
    assert user.closed_at


def test_history_is_kept_when_an_account_is_closed(rental: Rental) -> None:
    live_a_little(rental)
    user = User.objects.get(pk=rental.user_id)
    before = OperationLog.objects.filter(subject=user).count()
    redeemed = list(Redemption.objects.filter(rental=rental).values())
    versions = AclConfig.objects.filter(rental=rental).count()
    services.close_account(user=user, by=None)
    do_jobs(user)
    user.refresh_from_db()
    rental.refresh_from_db()
    assert user.closed_at
    assert rental.status == Rental.Status.CLOSED
    assert OperationLog.objects.filter(subject=user).count() > before
    assert list(Redemption.objects.filter(rental=rental).values()) == redeemed
    assert Relay.objects.filter(rental=rental, status=Relay.Status.RELEASED).count() == 3
    assert AclConfig.objects.filter(rental=rental).count() == versions
    assert AclEvent.objects.filter(rental=rental, kind=AclEvent.Kind.WITHDRAWN).count() == 1
    assert not AclConfig.objects.filter(rental=rental, is_active=True).exists()
    assert all(not config.derp_map.get("Regions") for config in AclConfig.objects.filter(rental=rental))
    # An admin's own traces are his, and stay.
    assert OperationLog.objects.filter(
        action="rental.renewed", ip="192.0.2.44", target=f"#{user.pk}"
    ).exists()


def test_addresses_of_others_stay_in_the_log_when_they_only_look_alike(
    make_user: Callable[..., User],
) -> None:
    user, other = make_user("li@example.com"), make_user("wang.li@example.com")
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


def test_same_address_signs_up_anew_when_its_account_was_closed(
    make_user: Callable[..., User], sign_in: Callable[[User], Client]
) -> None:
    old = make_user("li@example.com")
    services.close_account(user=old, by=None)
    new = make_user("li@example.com")
    assert new.pk != old.pk
    assert get_user(sign_in(new)) == new
    services.close_account(user=new, by=None)
    assert make_user("li@example.com").pk not in {old.pk, new.pk}


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


# Step by step


def test_account_is_closing_until_the_last_relay_is_released(rental: Rental) -> None:
    services.close_account(user=rental.user, by=None)
    user = User.objects.get(pk=rental.user_id)
    do_jobs(user, are_hosts_there=False)
    user.refresh_from_db()
    assert user.closing_at
    assert user.closed_at is None
    with translation.override("en"):
        assert len(services.closing_left(user)) == 3
    do_jobs(user)
    user.refresh_from_db()
    assert user.closed_at
    closed_at = user.closed_at
    for _ in range(2):
        do_jobs(user)
    user.refresh_from_db()
    assert user.closed_at == closed_at
    for action in ("user.closing", "user.closed", "rental.closed"):
        assert OperationLog.objects.filter(action=action).count() == 1, action


@pytest.mark.parametrize(
    "step", ["drop_notices", "notify", "end_sessions", "_clean_records", "_forget", "log_operation"]
)
def test_nothing_has_happened_when_closing_dies_at_a_step(
    rental: Rental, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    before = everything()
    with monkeypatch.context() as patch:
        patch.setattr(closing, step, die)
        with pytest.raises(KeyboardInterrupt):
            services.close_account(user=rental.user, by=None)
    assert everything() == before
    assert services.close_account(user=User.objects.get(pk=rental.user_id), by=None)


@pytest.mark.django_db(transaction=True)
def test_one_closing_wins_when_four_come_at_once(make_user: Callable[..., User]) -> None:
    user = make_user()
    barrier = threading.Barrier(4)

    def close(_number: int) -> bool:
        try:
            connection.ensure_connection()
            barrier.wait(timeout=60)
            return services.close_account(user=user, by=None)
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(close, range(4))) == [False, False, False, True]
    assert told(user, "account_closed") == 1
    assert OperationLog.objects.filter(action="user.closing").count() == 1


def test_sweep_rings_again_when_the_bell_was_lost(rental: Rental, announced: list[tuple[str, int]]) -> None:
    services.close_account(user=rental.user, by=None)
    announced.clear()
    closing.sweep_closing(now=timezone.now())
    assert announced == [("account_closing", rental.user_id)]


def test_account_without_a_rental_is_closed_at_once(make_user: Callable[..., User]) -> None:
    user = make_user()
    services.close_account(user=user, by=None)
    closing.sweep_closing(now=timezone.now())
    user.refresh_from_db()
    assert user.closed_at is None, "the last mail has not left"
    do_jobs(user)
    user.refresh_from_db()
    assert user.closed_at


def test_account_is_closed_when_the_farewell_is_refused(
    make_user: Callable[..., User], monkeypatch: pytest.MonkeyPatch
) -> None:
    user, email = make_user(), "wei@example.com"

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise MailFailed(f"550 <{email}> is unknown", is_final=True)

    monkeypatch.setattr(services.notices, "deliver", refuse)
    services.close_account(user=user, by=None)
    do_jobs(user)
    user.refresh_from_db()
    assert user.closed_at
    assert Notice.objects.get(kind="account_closed").state == Notice.State.FAILED
    assert email not in everything()


def test_database_refuses_when_an_account_is_closing_and_active(make_user: Callable[..., User]) -> None:
    user = make_user()
    with pytest.raises(IntegrityError), transaction.atomic():
        User.objects.filter(pk=user.pk).update(closing_at=timezone.now())


def test_nothing_can_be_redeemed_when_the_account_is_closing(rental: Rental) -> None:
    services.close_account(user=rental.user, by=None)
    code = world.make_batch().serials.get().code
    with pytest.raises(AccountBarred):
        redeem_serial(code=code, user=User.objects.get(pk=rental.user_id), by=None)
    assert Redemption.objects.filter(rental=rental).count() == 1


# By operators


def test_admin_closes_and_finds_the_account_again(rental: Rental) -> None:
    email, pk = rental.user.email, rental.user_id
    client = world.enter(User.Role.ADMIN, has_factor=True)
    url = f"/admin/accounts/user/{pk}/close/"
    assert client.get(url).context["losses"]
    assert client.post(url, {"reason": "asked by phone"}).status_code == 302
    user = User.objects.get(pk=pk)
    assert user.closing_at
    assert user.closing_reason == "asked by phone"
    do_jobs(user)
    for words in (email, email.upper(), str(pk), f"#{pk}"):
        found = client.get("/admin/accounts/user/", {"q": words}).context["cl"].queryset
        assert user in found, words
    assert user not in client.get("/admin/accounts/user/", {"q": "nobody@example.com"}).context["cl"].queryset
    page = client.get(f"/admin/accounts/user/{pk}/change/").content.decode()
    assert f"/admin/customers/{pk}/history/" in page
    assert "asked by phone" in page
    assert url not in page
    assert client.get(url).status_code == 403
    assert client.get(f"/admin/customers/{pk}/history/").status_code == 200


def test_admin_reads_why_when_an_account_cannot_be_closed(rental: Rental, answer: Answer) -> None:
    answer("closing_reasons", lambda _user: ["An order is open."])
    client = world.enter(User.Role.ADMIN, has_factor=True)
    url = f"/admin/accounts/user/{rental.user_id}/close/"
    assert "An order is open." in client.get(url).content.decode()
    assert "An order is open." in client.post(url, {}, follow=True).content.decode()
    rental.user.refresh_from_db()
    assert rental.user.closing_at is None


def test_operators_account_is_closed_by_another_super_admin_only(make_user: Callable[..., User]) -> None:
    boss = make_user("boss@example.com", User.Role.SUPERADMIN)
    other = make_user("other@example.com", User.Role.SUPERADMIN)
    admin = make_user("admin@example.com", User.Role.ADMIN)
    customer = make_user("customer@example.com")
    for user, by in ((boss, boss), (admin, admin), (boss, admin), (admin, customer), (boss, customer)):
        with pytest.raises(services.NotAllowed):
            services.close_account(user=user, by=by)
    assert services.close_account(user=other, by=boss)
    assert services.close_account(user=admin, by=boss)


def test_command_closes_and_tells_what_is_left(rental: Rental) -> None:
    email = rental.user.email
    for is_new in (True, False):
        out, err = StringIO(), StringIO()
        call_command("account_close", email.upper(), "--reason", "fraud", "--json", stdout=out, stderr=err)
        row = json.loads(out.getvalue())
        assert row["id"] == rental.user_id
        assert row["closing_at"]
        assert row["left"]
        assert bool(err.getvalue()) is not is_new
    assert User.objects.get(pk=rental.user_id).closing_reason == "fraud"


def test_command_names_the_reasons_when_refused(rental: Rental, answer: Answer) -> None:
    with pytest.raises(CommandError, match="nobody@example"):
        call_command("account_close", "nobody@example.com")
    answer("closing_reasons", lambda _user: ["An order is open."])
    with pytest.raises(CommandError, match="An order is open"):
        call_command("account_close", rental.user.email)


# By itself


@pytest.fixture
def ended(rental: Rental) -> tuple[Rental, datetime]:
    """A rental that has ended, and when."""
    end = timezone.now() + 30 * DAY
    assert sweep_rentals(now=end + DAY)
    rental.refresh_from_db()
    assert rental.runs_until
    return rental, rental.runs_until


def pass_time(start: datetime, hours: range, *, mail_works: bool = True) -> None:
    """Sweep twice at each of these hours after `start`, and send what there is to send."""
    for hour in hours:
        now = start + timedelta(hours=hour)
        for _ in range(2):
            automatic.sweep_closing(now=now)
        if mail_works:
            Notice.objects.filter(state=Notice.State.WAITING).update(
                state=Notice.State.SENT, sent_at=now, created_at=now, address=""
            )


def test_customer_is_warned_twice_and_then_closed_when_he_does_not_renew(
    ended: tuple[Rental, datetime],
) -> None:
    rental, end = ended
    pass_time(end, range(0, 23 * 24, 12))
    assert told(rental.user) == 0
    pass_time(end, range(23 * 24, 29 * 24, 6))
    assert told(rental.user) == 1
    pass_time(end, range(29 * 24, 30 * 24, 6))
    assert told(rental.user) == 2
    rental.user.refresh_from_db()
    assert rental.user.closing_at is None
    pass_time(end, range(30 * 24, 40 * 24, 12))
    rental.user.refresh_from_db()
    assert rental.user.closing_at
    assert rental.user.closing_reason == automatic.NOT_RENEWED
    assert told(rental.user) == 2
    assert told(rental.user, "account_closed") == 1


@pytest.mark.parametrize("wakes_after_days", [23, 27, 30, 45])
def test_one_warning_comes_first_when_the_sweep_slept(
    ended: tuple[Rental, datetime], wakes_after_days: int
) -> None:
    rental, end = ended
    wake = end + wakes_after_days * DAY
    pass_time(wake, range(1))
    assert told(rental.user) == 1
    rental.user.refresh_from_db()
    assert rental.user.closing_at is None
    warning = Notice.objects.get(user=rental.user, kind="account_closing")
    closes_at = max(end + 30 * DAY, wake + DAY)
    assert abs(datetime.fromisoformat(warning.context["closes_at"]) - closes_at) < timedelta(seconds=1)
    pass_time(closes_at + timedelta(hours=1), range(1))
    rental.user.refresh_from_db()
    assert rental.user.closing_at
    assert told(rental.user, "account_closed") == 1


def test_one_closing_when_the_sweep_slept_after_the_warnings(ended: tuple[Rental, datetime]) -> None:
    rental, end = ended
    pass_time(end, range(23 * 24, 24 * 24, 6))
    pass_time(end + 37 * DAY, range(2))
    rental.user.refresh_from_db()
    assert rental.user.closing_at
    assert told(rental.user) == 1


def test_nobody_is_closed_when_his_warning_could_not_leave_yet(ended: tuple[Rental, datetime]) -> None:
    rental, end = ended
    pass_time(end, range(23 * 24, 40 * 24, 12), mail_works=False)
    rental.user.refresh_from_db()
    assert rental.user.closing_at is None
    assert told(rental.user) == 2
    pass_time(end + 40 * DAY, range(0, 30, 6))
    rental.user.refresh_from_db()
    assert rental.user.closing_at


def test_renewal_stops_the_closing_and_takes_the_waiting_warning_back(ended: tuple[Rental, datetime]) -> None:
    rental, end = ended
    pass_time(end, range(24 * 24, 24 * 24 + 1), mail_works=False)
    renew_rental(rental=rental, until=end + 60 * DAY, by=None)
    assert Notice.objects.get(user=rental.user, kind="account_closing").state == Notice.State.DROPPED
    pass_time(end, range(25 * 24, 60 * 24, 24))
    rental.user.refresh_from_db()
    assert rental.user.closing_at is None
    assert told(rental.user) == 1
    assert sweep_rentals(now=end + 61 * DAY)
    pass_time(end + 60 * DAY, range(24 * 24, 31 * 24, 12))
    rental.user.refresh_from_db()
    assert rental.user.closing_at
    assert told(rental.user) == 3


def test_closing_waits_and_admins_are_told_once_when_something_is_open(
    ended: tuple[Rental, datetime], monkeypatch: pytest.MonkeyPatch, make_user: Callable[..., User]
) -> None:
    rental, end = ended
    admins = [make_user("a1@example.com", User.Role.ADMIN), make_user("a2@example.com", User.Role.SUPERADMIN)]
    with monkeypatch.context() as patch:
        patch.setitem(queue._answers, "closing_reasons", [lambda _user: ["An order is open."]])
        pass_time(end, range(23 * 24, 36 * 24, 6))
    rental.user.refresh_from_db()
    assert rental.user.closing_at is None
    for admin in admins:
        notice = Notice.objects.get(user=admin, kind="account_closing_refused")
        assert notice.context["reasons"] == ["An order is open."]
        words = services.notices.render(notice)
        assert "An order is open." in words.text
        assert str(rental.user_id) in words.subject
        assert rental.user.email not in words.text
    assert told(rental.user) == 2
    assert OperationLog.objects.filter(action="user.closing_refused").count() == 1
    pass_time(end + 37 * DAY, range(1))
    rental.user.refresh_from_db()
    assert rental.user.closing_at


@pytest.mark.parametrize("case", ["banned", "staff", "off", "paused"])
def test_nobody_is_closed_by_itself_when_it_is_not_for_him(
    ended: tuple[Rental, datetime], case: str, settings: Any
) -> None:
    rental, end = ended
    if case == "banned":
        services.ban_user(user=rental.user, by=None)
    elif case == "staff":
        services.change_user(user=rental.user, by=None, username="staff", language="en", role=User.Role.ADMIN)
    elif case == "off":
        settings.CLOSE_AFTER_DAYS = 0
    else:
        Rental.objects.filter(pk=rental.pk).update(status=Rental.Status.PAUSED, paused_at=end - DAY)
    pass_time(end, range(20 * 24, 60 * 24, 24))
    rental.user.refresh_from_db()
    assert rental.user.closing_at is None
    assert told(rental.user) == 0


@pytest.mark.parametrize("language", ["en", "zh-hans"])
@pytest.mark.parametrize("kind", ["account_closing", "account_closed", "account_closing_refused"])
def test_texts_are_whole_when_rendered(make_user: Callable[..., User], kind: str, language: str) -> None:
    now = timezone.now()
    context = {
        "account": 7,
        "reasons": ["<b>"],
        "closes_at": now,
        "ends_at": now,
        "url": "http://testserver/x",
    }
    user = make_user()
    services.notify(user=user, kind=kind, key="k", context=context, is_mail_only=True)
    notice = Notice.objects.get()
    notice.language = language
    words = services.notices.render(notice)
    assert words.subject
    assert "http://testserver/x" in words.text
    assert "http://testserver/x" in words.html
    assert "<b>" not in words.html
