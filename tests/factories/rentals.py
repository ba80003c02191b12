"""Serial numbers and rentals."""

from datetime import timedelta
from typing import Any

import factory
from django.utils import timezone

from serials.numbers import services
from serials.numbers.models import SerialBatch, SerialNumber
from serials.rentals.models import Redemption, Rental, RentalSpan
from tests.factories.base import RowFactory, ServiceFactory
from tests.factories.people import UserFactory

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


class SerialBatchFactory(ServiceFactory[SerialBatch]):
    """A paid batch of one serial number of thirty days; takes what `create_batch` takes."""

    class Meta:
        model = SerialBatch

    name = "test"
    days = 30
    count = 1
    by = None
    is_paid = True

    @classmethod
    def _make(cls, **fields: Any) -> SerialBatch:
        return services.create_batch(**fields)


class SerialNumberFactory(ServiceFactory[SerialNumber]):
    """The one serial number of a new batch; what it is given is the batch's."""

    class Meta:
        model = SerialNumber

    @classmethod
    def _make(cls, **fields: Any) -> SerialNumber:
        return SerialBatchFactory(**fields).serials.get()


class RentalSpanFactory(RowFactory[RentalSpan]):
    """The time that a rental has: from yesterday, or the last hour, to its end."""

    class Meta:
        model = RentalSpan

    rental = factory.SelfAttribute("redemption.rental")
    starts_at = factory.LazyAttribute(lambda span: min(timezone.now() - DAY, span.ends_at - HOUR))
    ends_at = factory.SelfAttribute("rental.ends_at")


class RedemptionFactory(RowFactory[Redemption]):
    """What gave a rental all its time."""

    class Meta:
        model = Redemption

    kind = Redemption.Kind.SERIAL
    new_ends_at = factory.SelfAttribute("rental.ends_at")
    granted_seconds = factory.LazyAttribute(
        lambda redemption: int((redemption.new_ends_at - timezone.now() + DAY).total_seconds())
    )
    span = factory.RelatedFactory(RentalSpanFactory, "redemption")


class RentalFactory(RowFactory[Rental]):
    """A rental of somebody who reads English; it began yesterday, and has `days` left."""

    class Meta:
        model = Rental

    class Params:
        days = 30
        never_begun = factory.Trait(ends_at=None, redemption=None)
        unpaid = factory.Trait(redemption__unpaid_since=factory.LazyFunction(timezone.now))

    user = factory.SubFactory(UserFactory, language="en")
    ends_at = factory.LazyAttribute(lambda rental: timezone.now() + timedelta(days=rental.days))
    runs_until = factory.SelfAttribute("ends_at")
    redemption = factory.RelatedFactory(RedemptionFactory, "rental")


class RedeemedRentalFactory(ServiceFactory[Rental]):
    """A rental whose customer has just redeemed a serial number; what it is given beside `user` is the batch's."""

    class Meta:
        model = Rental

    user = factory.SubFactory(UserFactory)

    @classmethod
    def _make(cls, **fields: Any) -> Rental:
        user = fields.pop("user")
        return services.redeem_serial(code=SerialNumberFactory(**fields).code, user=user, by=user).rental
