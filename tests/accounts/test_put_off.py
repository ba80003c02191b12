"""Rows that a sweep put off since their work raised: operators see which, why and until when, and have them tried again."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from unittest.mock import Mock

import pytest
import time_machine
from django.db import DatabaseError
from django.test import Client
from django.utils import timezone

from accounts import jobs
from accounts.models import OperationLog, PutOff, User
from accounts.works import WORKS
from derpmgmt.lib import queue
from derpmgmt.lib.matters import Matter, read_matters
from serials.rentals import jobs as rentals
from serials.rentals.models import Rental
from serials.rentals.services import life
from tests.factories import PutOffFactory, WholeRentalFactory
from tests.panel import world
from tests.panel.test_acts import said

pytestmark = pytest.mark.django_db

LIST = "/admin/accounts/putoff/"


@pytest.fixture
def ended() -> Rental:
    """A customer whose time is over, which the sweep has to record."""
    rental = WholeRentalFactory()
    over = timezone.now() - timedelta(hours=1)
    Rental.objects.filter(pk=rental.pk).update(ends_at=over, runs_until=over, remind_at=None)
    return rental


@pytest.fixture
def broken() -> Iterator[Callable[..., None]]:
    """Has the recording of ends raise, for everybody, until it is mended."""
    with pytest.MonkeyPatch.context() as patch:

        def breaks(error: Exception | None) -> None:
            patch.undo()
            if error is not None:
                patch.setattr(life, "log_line", Mock(side_effect=error))

        yield breaks


@pytest.fixture
def bells(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What was announced."""
    rung: list[tuple[str, int]] = []
    monkeypatch.setattr(queue, "announce", lambda fact, pk: rung.append((fact, pk)))
    return rung


@pytest.fixture
def staff(ended: Rental) -> Client:
    client = world.enter(User.Role.ADMIN, has_factor=True)
    User.objects.update(language="en")
    return client


def found() -> list[Matter]:
    return [matter for matter in read_matters() if matter.key.startswith("put_off:")]


def test_what_a_sweep_put_off_needs_a_person_until_its_work_is_done(
    ended: Rental, staff: Client, broken: Callable[..., None]
) -> None:
    assert found() == []
    broken(ValueError("with a secret"))
    before = timezone.now()
    rentals.sweep_rentals()
    text = staff.get("/admin/").content.decode()
    assert f"Recording the end of rentals: {ended.user}" in text
    (matter,) = found()
    row = PutOff.objects.get()
    assert (matter.level, matter.since) == ("warning", row.since)
    assert before <= row.since <= timezone.now()
    page = staff.get(matter.url).content.decode()
    for shown in (text, page):
        assert "The panel made a mistake here" in shown
        assert "ValueError" in shown
        assert "secret" not in shown
    assert f'<a href="/admin/serials/rental/{ended.pk}/change/">{ended.user}</a>' in page
    assert f"ended rentals: row {ended.pk} is put off" in page
    assert f"{timezone.localtime(row.try_after):%H:%M:%S}" in matter.text

    broken(None)
    with time_machine.travel(timezone.now() + timedelta(minutes=1)):
        rentals.sweep_rentals()
    assert found() == []
    assert staff.get(matter.url).status_code == 302
    assert ended.user.email not in staff.get(LIST).content.decode()


def test_an_operator_has_it_tried_now(
    ended: Rental, staff: Client, broken: Callable[..., None], bells: list[tuple[str, int]]
) -> None:
    broken(DatabaseError("deadlock"))
    rentals.sweep_rentals()
    row = PutOff.objects.get()
    assert row.failure_code == "database_failed"
    page, button = f"{LIST}{row.pk}/change/", f"{LIST}{row.pk}/try-now/do/"
    assert button in staff.get(page).content.decode()
    assert ended.user.email in " ".join(staff.get(button).context["explanation"])
    assert bells.count(("retry_asked", row.pk)) == 0

    for words in ("is tried again now", "has its turn"):
        answer = staff.post(button, follow=True).content.decode()
        assert words in said(answer)[0]
    assert bells.count(("retry_asked", row.pk)) == 1
    assert OperationLog.objects.filter(action="work.retried").count() == 1
    assert button not in staff.get(page).content.decode()

    # What the bell rings for: still broken, and a longer pause begins.
    jobs.try_again(row.pk)
    row.refresh_from_db()
    assert row.failures == 2
    assert row.try_after is not None
    assert row.try_after > timezone.now() + timedelta(seconds=15)
    assert button in staff.get(page).content.decode()

    broken(None)
    staff.post(button)
    jobs.try_again(row.pk)
    jobs.try_again(row.pk)
    assert found() == []
    assert Rental.objects.get(pk=ended.pk).status == Rental.Status.EXPIRED
    assert staff.post(button).status_code == 404


def test_a_lost_bell_does_not_matter(ended: Rental, staff: Client, broken: Callable[..., None]) -> None:
    broken(ValueError())
    for _time in range(4):
        rentals.sweep_rentals()
        PutOff.objects.update(try_after=timezone.now())
    rentals.sweep_rentals()
    broken(None)
    rentals.sweep_rentals()
    assert len(found()) == 1, "it rests"
    staff.post(f"{LIST}{PutOff.objects.get().pk}/try-now/do/")
    rentals.sweep_rentals()
    assert found() == []


def test_what_something_else_did_is_no_matter_any_more(
    ended: Rental, staff: Client, broken: Callable[..., None]
) -> None:
    broken(ValueError())
    rentals.sweep_rentals()
    later = timezone.now() + timedelta(days=30)
    Rental.objects.filter(pk=ended.pk).update(ends_at=later, runs_until=later)
    jobs.try_again(PutOff.objects.get().pk)
    assert found() == []


@pytest.mark.slow
def test_many_of_one_work_and_error_are_one_line_with_the_list_of_all(
    staff: Client, broken: Callable[..., None]
) -> None:
    over = timezone.now() - timedelta(hours=1)
    WholeRentalFactory.create_batch(11)
    Rental.objects.update(ends_at=over, runs_until=over, remind_at=None)
    broken(ValueError())
    rentals.sweep_rentals()
    PutOffFactory(work="of another version", row=1, failure_code="internal")
    PutOffFactory(work="ended rentals", row=999_999, failure_code="database_failed")
    lines = [matter for matter in staff.get("/admin/").context["matters"] if "put_off" in matter.key]
    (line,) = [line for line in lines if line.title == "Recording the end of rentals: put off 12 times"]
    assert len(line.named) == 10
    assert staff.get(line.url).context["cl"].result_count == 12
    assert {line.title for line in lines} > {
        "of another version: #1",
        "Recording the end of rentals: #999999",
    }
    assert "#999999, which is gone" in staff.get(LIST).content.decode()
    assert staff.get(f"{LIST}?work=reminders").context["cl"].result_count == 0


def test_only_operators_see_and_try_it(ended: Rental, broken: Callable[..., None]) -> None:
    broken(ValueError())
    rentals.sweep_rentals()
    row = PutOff.objects.get()
    customer = world.sign_in(ended.user)
    for url in (LIST, f"{LIST}{row.pk}/change/", f"{LIST}{row.pk}/try-now/do/"):
        assert customer.get(url).status_code in {302, 403}
        assert customer.post(url).status_code in {302, 403}
    row.refresh_from_db()
    assert row.try_after is not None
    assert row.try_after > timezone.now()
    assert list(PutOff.objects.visible_to(ended.user)) == []


@pytest.mark.parametrize("name", WORKS)
def test_every_work_can_be_read_tried_and_forgotten(
    ended: Rental, staff: Client, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    pk = WORKS[name].model._default_manager.values_list("pk", flat=True)[0]
    rows = [PutOff.objects.create(work=name, row=row, failure_code="internal") for row in (pk, 999_999)]
    assert len(found()) == 2
    page = staff.get(LIST).content.decode()
    assert str(rows[0].whose) in page
    jobs.try_again(rows[0].pk)
    jobs.forget_settled()
    assert list(PutOff.objects.values_list("row", flat=True)) in ([], [pk])
    assert "could not be dealt with" not in caplog.text
