"""Renewing, pausing and resuming a rental: the buttons of its admin page and the commands."""

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from io import StringIO
from typing import Any
from unittest import mock

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone

from accounts.admin_site import PanelAdminSite
from accounts.models import User
from accounts.services import create_user
from serials import services
from serials.models import Rental, SerialNumber

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("english")]
DAY = timedelta(days=1)


@pytest.fixture
def rental(customer: User, make_serial: Callable[..., SerialNumber]) -> Rental:
    return services.redeem_serial(code=make_serial().code, user=customer, by=customer).rental


@pytest.fixture
def admin() -> Iterator[Client]:
    """An admin's browser; the second factor is the door's business, tested there."""
    user = create_user(email="admin@example.com", role=User.Role.ADMIN)
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


def test_the_rental_ends_with_the_chosen_day_when_it_is_renewed_on_its_page(
    admin: Client, rental: Rental
) -> None:
    day = timezone.localdate() + 50 * DAY
    page = press(admin, rental, "renew", until=day.isoformat())
    assert f"Renewed until {day} 23:59." in page
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


def test_nothing_happens_when_a_button_is_only_visited(admin: Client, rental: Rental) -> None:
    for verb in ("renew", "pause", "resume", "nonsense"):
        assert admin.get(f"/admin/serials/rental/{rental.pk}/{verb}/do/").status_code == 302
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
    create_user(email="new@example.com")
    with pytest.raises(CommandError, match="no rental"):
        run("rental_pause", "new@example.com")


def test_home_says_so_when_only_the_grace_is_left(
    customer: User, make_serial: Callable[..., SerialNumber]
) -> None:
    rental = services.redeem_serial(code=make_serial(grace_days=3).code, user=customer, by=None).rental
    now = timezone.now()
    rental.spans.update(starts_at=now - 5 * DAY, ends_at=now - DAY)
    Rental.objects.filter(pk=rental.pk).update(ends_at=now - DAY, runs_until=now + 2 * DAY)
    User.objects.update(language="en")
    client = Client()
    client.force_login(
        User.objects.get(pk=customer.pk), backend="allauth.account.auth_backends.AuthenticationBackend"
    )
    assert "everything still runs until" in client.get("/home/").content.decode()
