"""Renewing, pausing and resuming a rental: the buttons of its admin page and the commands."""

import json
from collections.abc import Iterator
from datetime import timedelta
from html import unescape
from io import StringIO
from typing import Any
from unittest import mock

import pytest
import time_machine
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone

from accounts.models import Notice, User
from accounts.services.notices import render
from derpmgmt.admin_site import PanelAdminSite
from serials.numbers import services as serials
from serials.rentals import services as rentals
from serials.rentals.models import Rental
from serials.rentals.wording import moment
from tests.factories import RedeemedRentalFactory, SerialNumberFactory, UserFactory

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("english")]
DAY = timedelta(days=1)
MOVES_ON = "The rental is paused: this end moves later for as long as the pause lasts."


@pytest.fixture
def rental(customer: User) -> Rental:
    return RedeemedRentalFactory(user=customer)


@pytest.fixture
def admin() -> Iterator[Client]:
    """An admin's browser; the second factor is the door's business, tested there."""
    user = UserFactory(email="admin@example.com", role=User.Role.ADMIN)
    User.objects.update(language="en")
    client = Client()
    client.force_login(user, backend="allauth.account.auth_backends.AuthenticationBackend")
    with mock.patch.object(PanelAdminSite, "has_permission", lambda _site, request: request.user.is_staff):
        yield client


def press(client: Client, rental: Rental, verb: str, **fields: str) -> str:
    answer = client.post(f"/admin/serials/rental/{rental.pk}/{verb}/do/", fields, follow=True)
    assert answer.status_code == 200
    return answer.content.decode()


def run(*arguments: str) -> dict[str, Any]:
    out = StringIO()
    call_command(*arguments, "--json", stdout=out, stderr=StringIO())
    return json.loads(out.getvalue())  # type: ignore[no-any-return]


def said(*arguments: str) -> str:
    """What a person at the terminal reads of a command."""
    out = StringIO()
    call_command(*arguments, stdout=out, stderr=out)
    return out.getvalue()


def customer_of(rental: Rental) -> Client:
    User.objects.update(language="en")
    client = Client(headers={"accept-language": "en"})
    user = User.objects.get(pk=rental.user_id)
    client.force_login(user, backend="allauth.account.auth_backends.AuthenticationBackend")
    return client


def customers_page(rental: Rental, path: str) -> str:
    return unescape(customer_of(rental).get(path).content.decode())


def test_the_rental_ends_with_the_chosen_day_when_it_is_renewed_on_its_page(
    admin: Client, rental: Rental
) -> None:
    day = timezone.localdate() + 50 * DAY
    page = press(admin, rental, "renew", until=day.isoformat())
    assert f"is renewed until {day} 23:59." in page
    rental.refresh_from_db()
    assert rental.ends_at is not None
    assert timezone.localdate(rental.ends_at) == day
    redemption = rental.redemptions.get(kind="renewal")
    assert redemption.by is not None
    assert redemption.by.email == "admin@example.com"
    assert "a renewal never shortens" in press(admin, rental, "renew", until=day.isoformat())
    assert "valid date" in press(admin, rental, "renew", until="soon")
    assert rental.redemptions.count() == 2


def test_pause_and_resume_stand_on_the_page_in_turn(admin: Client, rental: Rental) -> None:
    page = admin.get(f"/admin/serials/rental/{rental.pk}/change/").content.decode()
    assert "/pause/do/" in page
    assert "/resume/do/" not in page
    page = press(admin, rental, "pause", reason="holiday")
    assert "/resume/do/" in page
    assert "/pause/do/" not in page
    rental.refresh_from_db()
    assert rental.status == "paused"
    press(admin, rental, "resume")
    rental.refresh_from_db()
    assert rental.status == "active"


def test_a_second_press_says_that_there_is_nothing_to_do(admin: Client, rental: Rental) -> None:
    assert f"The rental of {rental} is paused." in press(admin, rental, "pause")
    page = press(admin, rental, "pause", reason="again")
    assert "This rental is paused already." in page
    assert "is paused. " not in page
    assert "is resumed" in press(admin, rental, "resume")
    page = press(admin, rental, "resume")
    assert "This rental is not paused." in page
    assert "is resumed" not in page


def test_pause_is_not_offered_when_the_rental_has_ended(admin: Client, rental: Rental) -> None:
    Rental.objects.filter(pk=rental.pk).update(status="expired")
    page = admin.get(f"/admin/serials/rental/{rental.pk}/change/").content.decode()
    assert "/renew/do/" in page
    assert "/pause/do/" not in page


def test_home_counts_the_days_to_the_end_alone_when_grace_follows_it(rental: Rental) -> None:
    now = timezone.now()
    Rental.objects.filter(pk=rental.pk).update(ends_at=now + 2 * DAY, runs_until=now + 5 * DAY)
    page = customers_page(rental, "/home/")
    assert "2 days left" in page
    assert "5 days left" not in page
    assert f"On {moment(now + 5 * DAY)} your relays are removed" in page


def test_home_says_when_the_account_is_closed_when_the_rental_has_ended(
    rental: Rental, settings: Any
) -> None:
    end = timezone.now() - 3 * DAY
    Rental.objects.filter(pk=rental.pk).update(ends_at=end, runs_until=end + DAY, status="expired")
    page = customers_page(rental, "/home/")
    assert f"Without a renewal your account is closed on {moment(end + 31 * DAY)}." in page
    assert f"are kept until {moment(end + 31 * DAY)}" in page
    settings.CLOSE_AFTER_DAYS = 0
    page = customers_page(rental, "/home/")
    assert "the region IDs of your map are kept:" in page
    assert "is closed" not in page


def test_the_page_says_who_paused_when_and_why(admin: Client, rental: Rental) -> None:
    press(admin, rental, "pause", reason="<asked> by phone 节日")
    rental.refresh_from_db()
    page = unescape(admin.get(f"/admin/serials/rental/{rental.pk}/change/").content.decode())
    assert f"{moment(rental.paused_at)} · admin@example.com · <asked> by phone 节日" in page
    press(admin, rental, "resume")
    run("rental_pause", "li@example.com")
    page = admin.get(f"/admin/serials/rental/{rental.pk}/change/").content.decode()
    rental.refresh_from_db()
    assert f"{moment(rental.paused_at)} · the system or the console" in page
    assert "by phone" not in page.split("paused</label>")[-1].split("</div>")[0]


def test_home_says_who_paused_when_and_why_without_naming_the_admin(admin: Client, rental: Rental) -> None:
    press(admin, rental, "pause", reason="<asked> by phone 节日")
    rental.refresh_from_db()
    page = customers_page(rental, "/home/")
    assert "The operator has paused this rental." in page
    assert moment(rental.paused_at) in page
    assert "Reason: <asked> by phone 节日" in page
    assert "30 days left" in page
    assert "admin@example.com" not in page
    press(admin, rental, "resume")
    press(admin, rental, "pause")
    assert "Reason:" not in customers_page(rental, "/home/")


def test_it_is_said_everywhere_that_the_end_moves_on_when_a_paused_rental_is_renewed(
    admin: Client, rental: Rental
) -> None:
    rental.user.language = "en"
    rental.user.save()
    User.objects.filter(pk=rental.user_id).update(language="en")
    url = f"/admin/serials/rental/{rental.pk}/change/"
    day = timezone.localdate() + 50 * DAY
    assert MOVES_ON not in admin.get(url).content.decode()
    assert MOVES_ON not in press(admin, rental, "renew", until=day.isoformat())
    assert MOVES_ON not in render(Notice.objects.get(kind="rental_renewed")).text
    with time_machine.travel(timezone.now() - 10 * DAY, tick=False):
        rentals.pause_rental(rental=rental, by=None)
    assert MOVES_ON in admin.get(url).content.decode()
    day += DAY
    page = press(admin, rental, "renew", until=day.isoformat())
    assert f"is renewed until {day} 23:59." in page
    assert page.count(MOVES_ON) == 2
    words = render(Notice.objects.filter(kind="rental_renewed").latest("pk"))
    assert MOVES_ON in words.text
    assert MOVES_ON in words.html
    assert "Nothing changes for your devices" not in words.text + words.html
    day += DAY
    assert MOVES_ON in said("rental_renew", "li@example.com", "--until", day.isoformat())
    client = customer_of(rental)
    code = SerialNumberFactory().code
    client.post("/redeem/", {"code": code})
    assert MOVES_ON in client.get("/redeem/").content.decode()
    client.post("/redeem/", {"code": code, "confirm": "1"})
    assert MOVES_ON in client.get("/home/").content.decode()
    rental.refresh_from_db()
    stored = rental.ends_at
    assert stored is not None
    rentals.resume_rental(rental=rental, by=None)
    rental.refresh_from_db()
    assert rental.ends_at is not None
    assert rental.ends_at - stored >= 10 * DAY
    assert MOVES_ON not in said("rental_show", "li@example.com")


def test_nobody_is_told_that_his_relays_run_again_when_he_redeems_in_a_long_pause(rental: Rental) -> None:
    User.objects.update(language="en")
    rentals.pause_rental(rental=rental, by=None)
    with time_machine.travel(timezone.now() + 60 * DAY, tick=False):
        serials.redeem_serial(code=SerialNumberFactory().code, user=User.objects.get(), by=None)
    words = render(Notice.objects.get(kind="rental_renewed"))
    assert MOVES_ON in words.text
    assert "runs again" not in words.text + words.html


def test_nothing_happens_when_a_button_is_only_visited(admin: Client, rental: Rental) -> None:
    for verb, status in (("renew", 200), ("pause", 200), ("resume", 302), ("nonsense", 404)):
        assert admin.get(f"/admin/serials/rental/{rental.pk}/{verb}/do/").status_code == status
    rental.refresh_from_db()
    assert (rental.status, rental.redemptions.count()) == ("active", 1)


def test_a_customer_cannot_press_the_buttons(customer: User, rental: Rental) -> None:
    client = Client()
    client.force_login(customer, backend="allauth.account.auth_backends.AuthenticationBackend")
    client.post(f"/admin/serials/rental/{rental.pk}/renew/do/", {"until": "2099-01-01"})
    assert rental.redemptions.count() == 1


def test_the_commands_do_the_same(rental: Rental) -> None:
    day = timezone.localdate() + 50 * DAY
    assert run("rental_show", "LI@example.com")["status"] == "active"
    shown = run("rental_renew", "li@example.com", "--until", day.isoformat())
    assert len(shown["spans"]) == 2
    assert run("rental_pause", "li@example.com", "--reason", "holiday")["status"] == "paused"
    assert run("rental_pause", "li@example.com")["status"] == "paused"
    assert run("rental_resume", "li@example.com")["status"] == "active"
    assert run("rental_resume", "li@example.com")["paused_at"] is None
    with pytest.raises(CommandError, match="never shortens"):
        run("rental_renew", "li@example.com", "--until", day.isoformat())
    with pytest.raises(CommandError, match="no account"):
        run("rental_show", "nobody@example.com")
    UserFactory(email="new@example.com")
    with pytest.raises(CommandError, match="no rental"):
        run("rental_pause", "new@example.com")


def test_the_commands_say_what_is_left_and_who_paused(rental: Rental) -> None:
    assert run("rental_show", "li@example.com")["left"] == "30 days left"
    shown = run("rental_pause", "li@example.com", "--reason", "节日 🎉")
    assert (shown["left"], shown["pause_reason"]) == ("30 days left", "节日 🎉")
    assert shown["paused_by"] == "the system or the console"
    assert "节日 🎉" in said("rental_show", "li@example.com")
    assert "paused already" in said("rental_pause", "li@example.com", "--reason", "another")
    assert "another" not in said("rental_show", "li@example.com")
    shown = run("rental_resume", "li@example.com")
    assert (shown["paused_by"], shown["pause_reason"]) == (None, "")
    assert "is not paused" in said("rental_resume", "li@example.com")
    rentals.close_rental(rental=rental, by=None)
    assert run("rental_show", "li@example.com")["left"] is None


@pytest.mark.parametrize(
    ("day", "words"),
    [
        ("soon", "looks like 2026-12-31"),
        ("2026-02-30", "looks like 2026-12-31"),
        ("", "looks like 2026-12-31"),
        ("2026-12-31T12:00", "looks like 2026-12-31"),
        ("2026-12-31T12:00+08:00", "looks like 2026-12-31"),
        ("2020-01-01", "never shortens"),
        ("0001-01-01", "never shortens"),
        ("9999-12-31", "more than ten years"),
    ],
)
def test_a_renewal_is_refused_with_a_sentence_when_the_day_is_wrong(
    rental: Rental, day: str, words: str
) -> None:
    with pytest.raises(CommandError, match=words) as refused:
        run("rental_renew", "li@example.com", "--until", day)
    assert refused.value.returncode == 1
    assert rental.redemptions.count() == 1


def test_home_says_so_when_only_the_grace_is_left(customer: User) -> None:
    rental = RedeemedRentalFactory(user=customer, grace_days=3)
    now = timezone.now()
    rental.spans.update(starts_at=now - 5 * DAY, ends_at=now - DAY)
    Rental.objects.filter(pk=rental.pk).update(ends_at=now - DAY, runs_until=now + 2 * DAY)
    assert "everything still runs until" in customers_page(rental, "/home/")


def test_what_was_sold_is_read_as_it_was_sold(customer: User, admin: Client) -> None:
    serial = SerialNumberFactory(days=30, upload_quota_bytes=500 * 10**9, rate_bytes_per_second=2_500_000)
    rental = serials.redeem_serial(code=serial.code, user=customer, by=customer).rental
    page = admin.get(f"/admin/serials/rental/{rental.pk}/change/").content.decode()
    for words in ("up 500\u00a0GB", "20\u00a0Mbit/s", "30 days"):
        assert words in page
    assert "2592000" not in page
