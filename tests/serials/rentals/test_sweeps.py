"""The sweeps over rentals of which one cannot be dealt with: the others have their turn, and it has its own later."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.utils import timezone

from accounts.models import Notice, PutOff, User
from serials.rentals import jobs, reminders
from serials.rentals.models import Rental
from serials.rentals.services import automatic_closing, life
from tests.factories import RentalFactory, UserFactory

pytestmark = pytest.mark.django_db

DAY = timedelta(days=1)


@pytest.fixture
def ended(settings: Any) -> list[Rental]:
    """Four rentals whose time is over; the first one ended first, so that it stands before the others."""
    settings.CLOSE_AFTER_DAYS = 30
    now = timezone.now()
    return [
        RentalFactory(
            user=UserFactory(email=f"c{number}@example.com"),
            ends_at=now - (40 - number) * DAY,
            remind_at=now - (40 - number) * DAY,
        )
        for number in range(4)
    ]


def recorded() -> set[int]:
    return set(Rental.objects.filter(status="expired").values_list("user_id", flat=True))


def told(kind: str) -> Callable[[], set[int]]:
    return lambda: set(Notice.objects.filter(kind=kind).values_list("user_id", flat=True))


@pytest.mark.parametrize(
    ("job", "module", "name", "dealt_with"),
    [
        (jobs.sweep_rentals, life, "log_line", recorded),
        (jobs.sweep_reminders, reminders, "Message", told("rental_ended")),
        (jobs.sweep_closing, automatic_closing, "notify", told("account_closing")),
    ],
    ids=["ended rentals", "reminders", "automatic closing"],
)
def test_rentals_are_dealt_with_behind_one_that_cannot_be(
    ended: list[Rental],
    job: Callable[[], None],
    module: Any,
    name: str,
    dealt_with: Callable[[], set[int]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if job == jobs.sweep_closing:
        Rental.objects.update(status=Rental.Status.EXPIRED)
    bad, *others = ended
    real, tries = getattr(module, name), []

    def work(**given: Any) -> Any:
        about: User = given.get("user") or given["subject"]
        if about == bad.user:
            tries.append(about.pk)
            raise ValueError("broken")
        return real(**given)

    monkeypatch.setattr(module, name, work)
    before = Rental.objects.values().get(pk=bad.pk)
    job()
    assert dealt_with() == {rental.user_id for rental in others}
    assert f"row {bad.pk} is put off" in caplog.text
    assert Rental.objects.values().get(pk=bad.pk) == before, "nothing half-done is left"
    seen = len(tries)
    job()
    assert len(tries) == seen, "it is left alone for a while"

    monkeypatch.undo()
    with time_machine.travel(timezone.now() + timedelta(minutes=1)):
        job()
    assert dealt_with() == {rental.user_id for rental in ended}
    assert not PutOff.objects.exists()
