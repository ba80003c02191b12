"""How a rental stands is read at once, and says what each of its parts says when it is asked."""

from datetime import timedelta

import pytest
from django.utils import timezone

from serials.rentals import services
from serials.rentals.models import Rental
from tests.factories import RentalFactory, RentalSpanFactory, UserFactory

pytestmark = pytest.mark.django_db

DAY = timedelta(days=1)


def make(kind: str) -> Rental:
    """A rental in which two spans follow one another, and what became of it."""
    rental = RentalFactory(days=3, unpaid=kind == "unpaid")
    first = rental.spans.get()
    first.ends_at -= DAY
    first.save()
    RentalSpanFactory(rental=rental, redemption=first.redemption, starts_at=first.ends_at, device_limit=99)
    changes = {
        "paused": {"paused_at": timezone.now() - timedelta(hours=1)},
        "closed": {"closed_at": timezone.now()},
        "with grace": {"runs_until": rental.ends_at + DAY},
    }.get(kind, {})
    Rental.objects.filter(pk=rental.pk).update(**changes)
    return Rental.objects.get(pk=rental.pk)


@pytest.mark.parametrize("kind", ["running", "unpaid", "paused", "closed", "with grace"])
@pytest.mark.parametrize("days", [-2, 0, 2.5, 3.5, 5])
def test_a_standing_is_what_its_parts_are(kind: str, days: float) -> None:
    rental = make(kind)
    RentalFactory()
    now = timezone.now() + timedelta(days=days)
    standing = services.read_standing(user=rental.user, now=now)
    assert standing is not None
    assert standing.rental == rental
    assert standing.span == services.current_span(rental, now)
    assert standing.is_paid == services.is_paid(rental, now)
    assert standing.rental.is_entitled(now) == rental.is_entitled(now)


def test_spans_are_told_apart_by_the_time() -> None:
    rental = make("with grace")

    def places(days: float) -> int | None:
        standing = services.read_standing(user=rental.user, now=timezone.now() + timedelta(days=days))
        assert standing
        return standing.span.device_limit if standing.span else None

    assert [places(days) for days in (-2, 0, 2.5, 3.5, 4.5)] == [None, 20, 99, 99, None]


def test_who_was_given_no_time_has_a_rental_without_a_span() -> None:
    never = RentalFactory(never_begun=True)
    standing = services.read_standing(user=never.user, now=timezone.now())
    assert standing is not None
    assert (standing.rental, standing.span, standing.is_paid) == (never, None, False)
    assert services.read_standing(user=UserFactory(), now=timezone.now()) is None
