"""Rentals: what was sold, when it runs, and what moved its end. Nothing here knows for what the time was given."""

from datetime import datetime, timedelta
from typing import Any, Self, TypeVar

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Case, F, Q, When
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from accounts.models import OwnedQuerySet, User
from derpmgmt.lib.lines import LineField
from fleet.models import Server
from serials.rentals.limits import AtQuota, Limited


class Entitlement(models.Model):
    """What was sold; copied from a batch to the spans of a rental, so that later changes never touch what is running."""

    AtQuota = AtQuota

    device_limit = models.PositiveIntegerField(
        _("devices"), default=20, validators=[MinValueValidator(1), MaxValueValidator(1000)]
    )
    quota_bytes = models.BigIntegerField(
        _("traffic a month in bytes"), null=True, blank=True, help_text=_("Empty = unlimited.")
    )
    # What devices send, and what is sent to them; beside, or instead of, both together.
    upload_quota_bytes = models.BigIntegerField(
        _("traffic up a month in bytes"), null=True, blank=True, help_text=_("Empty = unlimited.")
    )
    download_quota_bytes = models.BigIntegerField(
        _("traffic down a month in bytes"), null=True, blank=True, help_text=_("Empty = unlimited.")
    )
    rate_bytes_per_second = models.BigIntegerField(
        _("rate limit in bytes a second"),
        null=True,
        blank=True,
        help_text=_("For each device; empty = none."),
    )
    at_quota = models.CharField(_("at the allowance"), max_length=8, choices=AtQuota, default=AtQuota.NOTHING)
    grace_days = models.PositiveIntegerField(
        _("days of grace"),
        null=True,
        blank=True,
        validators=[MaxValueValidator(366)],
        help_text=_("So long everything still runs after the end; empty = as set for the whole panel."),
    )

    may_open = models.BooleanField(
        _("device checking may be switched off"),
        default=True,
        help_text=_("Whether the customer may let every device use their relays."),
    )
    servers = models.ManyToManyField(
        Server,
        blank=True,
        related_name="+",
        verbose_name=_("bound to servers"),
        help_text=_("Relays are placed on these only; at least three, or none for all."),
    )

    ENTITLEMENT_FIELDS = (
        "device_limit",
        "quota_bytes",
        "upload_quota_bytes",
        "download_quota_bytes",
        "rate_bytes_per_second",
        "at_quota",
        "grace_days",
        "may_open",
    )

    class Meta:
        abstract = True


_Row = TypeVar("_Row", bound=models.Model)


class ByRentalQuerySet(OwnedQuerySet[_Row]):
    """Rows of a rental: admins see all, a customer those of their own."""

    owner = "rental__user"


class RentalQuerySet(OwnedQuerySet["Rental"]):
    """Rentals by state and by who may see them."""

    def entitled(self, now: Any) -> Self:
        """Those whose time runs at `now`: decided by times, never by the recorded status."""
        return self.filter(entitled_until__gt=now)

    def with_rights(self, now: Any) -> Self:
        """Those whose relays should run and let devices in at `now`: their time runs, their customer's account is in use, and they are
        not stopped because their traffic is used up."""
        return self.entitled(now).filter(user__is_active=True, stopped_at=None)

    def due(self, now: Any) -> Self:
        """Those whose end, with its grace, has come without having been recorded; read from one index."""
        return self.filter(status=Rental.Status.ACTIVE, runs_until__lte=now)

    def plan_due(self, now: Any) -> Self:
        """Those whose relays have to be looked at, the longest waiting first; read from one index."""
        return self.filter(plan_due_at__lte=now).order_by("plan_due_at")


class Rental(Limited):
    """One customer's time with relays; its schedule is the spans.

    Rights are decided by times (`entitled_until`), by whether the account is in use and by whether it is stopped (`stopped_at`: all
    traffic of the month is used, and that is what was sold; its time runs on); `status` only records what the sweep has
    done. `ends_at` is the end of the last span, `runs_until` that end with its grace. `waiting_since` is set while the customer has paid time but not yet a proven
    relay: that time is given back. `plan_due_at` is when their relays have to be looked at next: at once after every change,
    later when the next span begins or everything ends.
    """

    class Status(models.TextChoices):
        ACTIVE = "active", _("active")
        EXPIRED = "expired", _("expired")
        PAUSED = "paused", _("paused")
        CLOSED = "closed", _("closed")

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL, models.PROTECT, related_name="rental", verbose_name=_("customer")
    )
    status = models.CharField(_("state"), max_length=8, choices=Status, default=Status.ACTIVE, db_index=True)
    ends_at = models.DateTimeField(_("ends on"), null=True, blank=True, db_index=True)
    runs_until = models.DateTimeField(_("relays run until"), null=True, blank=True)
    paused_at = models.DateTimeField(_("paused"), null=True, blank=True)
    closed_at = models.DateTimeField(_("closed"), null=True, blank=True)
    # Until when its time runs, NULL while it does not: for querysets and SQL alike. A row in memory that was changed has the old one:
    # `is_entitled` says it there.
    entitled_until = models.GeneratedField(
        expression=Case(When(Q(paused_at=None, closed_at=None), then=F("runs_until")), default=None),
        output_field=models.DateTimeField(null=True),
        db_persist=True,
    )
    waiting_since = models.DateTimeField(_("waiting for the first relay since"), null=True, blank=True)
    plan_due_at = models.DateTimeField(null=True, default=timezone.now, db_index=True, editable=False)
    # What tells this end from others that the customer was told about (`serials.rentals.reminders.about`); "": its day.
    end_name = models.CharField(max_length=24, blank=True, editable=False)
    # When the next of `serials.rentals.reminders` is due: moved on by its sweep, set anew by whatever moves the end.
    remind_at = models.DateTimeField(null=True, blank=True, db_index=True, editable=False)
    # When the automatic closing looks at this ended rental again; NULL while it has not done so since the end moved.
    closing_due_at = models.DateTimeField(null=True, blank=True, editable=False)
    created_at = models.DateTimeField(_("created"), default=timezone.now)
    cap_devices = models.PositiveIntegerField(_("devices"), null=True, blank=True, editable=False)
    # What was added to the month that runs (`TrafficGrant`), as of the last verdict.
    added_bytes = models.BigIntegerField(default=0, editable=False)
    # While `traffic_state` says that the traffic is used up: the newest redemption (its primary key) when it came to that.
    over_after = models.BigIntegerField(null=True, blank=True, editable=False)

    objects = RentalQuerySet.as_manager()

    class Meta:
        verbose_name = _("rental")
        verbose_name_plural = _("rentals")
        ordering = ["-pk"]
        indexes = [
            models.Index(fields=["status", "runs_until"]),
            models.Index(fields=["status", "closing_due_at", "runs_until"]),
        ]

    def __str__(self) -> str:
        return str(self.user)

    def is_entitled(self, now: Any) -> bool:
        """Whether its time runs at `now`; as `RentalQuerySet.entitled`."""
        return (
            self.paused_at is None
            and self.closed_at is None
            and self.runs_until is not None
            and now < self.runs_until
        )

    def has_rights(self, now: Any) -> bool:
        """Whether its relays should run and let devices in at `now`; as `RentalQuerySet.with_rights`."""
        return self.is_entitled(now) and self.user.is_active and self.stopped_at is None

    @property
    def closes_at(self) -> datetime | None:
        """When the customer's account is closed by itself unless they renew; None where that does not happen.

        Never to operators, distributors and banned people, nor while the rental is paused. Whom the last warning reached late
        is closed later (`serials.rentals.services.automatic_closing`).
        """
        is_for_him = self.user.role == User.Role.USER and self.user.is_active
        if not is_for_him or not settings.CLOSE_AFTER_DAYS or self.paused_at or self.runs_until is None:
            return None
        return self.runs_until + timedelta(days=settings.CLOSE_AFTER_DAYS)


class Redemption(models.Model):
    """What moved a rental's end, from when to when, by whom; append-only."""

    class Kind(models.TextChoices):
        SERIAL = "serial", _("serial number redeemed")
        RENEWAL = "renewal", _("renewed by an admin")
        ORDER = "order", _("paid order")
        WAITING = "waiting", _("waiting time given back")
        RESUMED = "resumed", _("resumed after a pause")
        REFUND = "refund", _("refunded")

    rental = models.ForeignKey(Rental, models.PROTECT, related_name="redemptions", verbose_name=_("rental"))
    kind = models.CharField(_("kind"), max_length=8, choices=Kind)
    granted_seconds = models.BigIntegerField(_("seconds granted"), help_text=_("Negative for a refund."))
    old_ends_at = models.DateTimeField(_("old end"), null=True, blank=True)
    new_ends_at = models.DateTimeField(_("new end"))
    at = models.DateTimeField(_("time"), default=timezone.now)
    by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.SET_NULL,
        null=True,
        blank=True,
        related_name="+",
        verbose_name=_("by"),
    )
    note = LineField(_("note"), max_length=200, blank=True)
    # What was redeemed counts as not paid for since then: its time runs on, but no map of it is handed out.
    unpaid_since = models.DateTimeField(_("unpaid since"), null=True, blank=True, editable=False)

    objects = ByRentalQuerySet["Redemption"].as_manager()

    class Meta:
        verbose_name = _("redemption")
        verbose_name_plural = _("redemptions")
        ordering = ["-pk"]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} · {timezone.localtime(self.new_ends_at):%Y-%m-%d %H:%M}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        if self.pk is not None:
            raise TypeError("redemptions are append-only")
        super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("redemptions are append-only")


class RentalSpan(Entitlement):
    """A stretch of a rental under one entitlement; spans follow one another without gap or overlap."""

    rental = models.ForeignKey(Rental, models.CASCADE, related_name="spans", verbose_name=_("rental"))
    redemption = models.ForeignKey(
        Redemption, models.PROTECT, related_name="spans", verbose_name=_("redemption")
    )
    starts_at = models.DateTimeField(_("starts"))
    ends_at = models.DateTimeField(_("ends"))

    objects = ByRentalQuerySet["RentalSpan"].as_manager()

    class Meta:
        verbose_name = _("span")
        verbose_name_plural = _("spans")
        ordering = ["starts_at"]
        constraints = [
            models.CheckConstraint(name="span_ends_after_it_starts", condition=Q(ends_at__gt=F("starts_at"))),
            models.UniqueConstraint(name="span_starts_once", fields=["rental", "starts_at"]),
        ]

    def __str__(self) -> str:
        return f"{timezone.localtime(self.starts_at):%Y-%m-%d} – {timezone.localtime(self.ends_at):%Y-%m-%d}"


class TrafficGrant(models.Model):
    """Traffic that was added to one month of a rental, on top of its allowance; append-only.

    It counts in the month of the rental that holds `at`. `redemption` is the renewal that it came with, if any; by that each renewal gives it
    once.
    """

    rental = models.ForeignKey(
        Rental, models.CASCADE, related_name="traffic_grants", verbose_name=_("rental")
    )
    size_bytes = models.BigIntegerField(_("traffic added"), validators=[MinValueValidator(1)])
    redemption = models.OneToOneField(
        Redemption,
        models.PROTECT,
        null=True,
        blank=True,
        related_name="traffic_grant",
        verbose_name=_("renewal"),
    )
    at = models.DateTimeField(_("time"), default=timezone.now)
    by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.SET_NULL,
        null=True,
        blank=True,
        related_name="+",
        verbose_name=_("by"),
    )
    note = LineField(_("note"), max_length=200, blank=True)

    objects = ByRentalQuerySet["TrafficGrant"].as_manager()

    class Meta:
        verbose_name = _("added traffic")
        verbose_name_plural = _("added traffic")
        ordering = ["-pk"]
        indexes = [models.Index(fields=["rental", "at"])]

    def __str__(self) -> str:
        return f"{self.rental} · {timezone.localtime(self.at):%Y-%m-%d %H:%M}"
