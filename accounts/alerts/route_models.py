"""By which ways alerts are told, and what was told by them."""

from datetime import datetime
from typing import Any

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from accounts.alerts.decide import CRITICAL
from accounts.alerts.models import Alert, Severity, StaffOnlyQuerySet
from accounts.alerts.rules import Kind
from derpmgmt.lib.crypto import EncryptedTextField
from derpmgmt.lib.lines import LineField
from derpmgmt.lib.moments import moment


def all_but_tasks() -> list[str]:
    """What a new route tells of: what waits for a person without haste stands on the start page."""
    return [kind.value for kind in Kind if kind is not Kind.TASK]


class AlertRoute(models.Model):
    """A way by which alerts are told, from a severity on and of some kinds.

    `staff` is every admin by e-mail and by the channels of their own account; the others have an `address`, which is a secret: pages
    show `label`. With `digest_at` what is not critical comes once a day at that time; within the quiet hours it waits. Times of day are
    those of the panel's time zone.
    """

    class By(models.TextChoices):
        STAFF = "staff", pgettext_lazy("alert route", "every admin, by e-mail and own channels")
        EMAIL = "email", pgettext_lazy("alert route", "e-mail")
        PUSH = "push", pgettext_lazy("alert route", "push message")
        SMS = "sms", pgettext_lazy("alert route", "text message")

    name = LineField(_("name"), max_length=60, unique=True)
    by = models.CharField(_("way"), max_length=8, choices=By)
    address = EncryptedTextField(blank=True, editable=False)
    label = LineField(_("address"), max_length=60, blank=True, editable=False)
    language = models.CharField(_("language"), max_length=7, default="zh-hans", editable=False)
    severity = models.CharField(_("tells from"), max_length=12, choices=Severity, default=Severity.WARNING)
    kinds = models.JSONField(_("kinds"), default=all_but_tasks, blank=True)
    quiet_from = models.TimeField(_("quiet from"), null=True, blank=True)
    quiet_until = models.TimeField(_("quiet until"), null=True, blank=True)
    digest_at = models.TimeField(
        _("digest at"),
        null=True,
        blank=True,
        help_text=_("Once a day then, what is not critical; empty = everything at once."),
    )
    position = models.PositiveSmallIntegerField(
        _("order"), default=10, help_text=_("What one route could not deliver goes by the next one.")
    )
    is_on = models.BooleanField(_("in use"), default=True)
    created_at = models.DateTimeField(_("created"), default=timezone.now, editable=False)

    objects = StaffOnlyQuerySet.as_manager()

    class Meta:
        verbose_name = _("alert route")
        verbose_name_plural = _("alert routes")
        ordering = ["position", "pk"]

    def __str__(self) -> str:
        return self.name

    def is_quiet(self, now: datetime) -> bool:
        """Whether it is within the quiet hours, which may go over midnight."""
        if self.quiet_from is None or self.quiet_until is None:
            return False
        at = timezone.localtime(now).time()
        if self.quiet_from <= self.quiet_until:
            return self.quiet_from <= at < self.quiet_until
        return at >= self.quiet_from or at < self.quiet_until

    def tells_now(self, severity: str, now: datetime) -> bool:
        """Whether what is so bad is told at once: what is critical always is."""
        return severity == CRITICAL or (self.digest_at is None and not self.is_quiet(now))


class AlertDelivery(models.Model):
    """One message about alerts by one route; the row is the queue, as of `Notice`.

    `key` is the same for the same occasion, so that no route tells it twice. What a route could not deliver is taken over by another
    (`instead_of` leads back). Those to every admin are notices of theirs, of which this row says what became.
    """

    class State(models.TextChoices):
        WAITING = "waiting", _("waiting")
        SENDING = "sending", _("being sent")
        SENT = "sent", _("sent")
        FAILED = "failed", _("failed")
        DROPPED = "dropped", _("not sent")

    class What(models.TextChoices):
        ALERTS = "alerts", pgettext_lazy("alert route", "at once")
        DIGEST = "digest", pgettext_lazy("alert route", "digest")

    route = models.ForeignKey(
        AlertRoute, models.CASCADE, related_name="deliveries", verbose_name=_("alert route")
    )
    key = models.CharField(max_length=60, editable=False)
    what = models.CharField(_("what"), max_length=8, choices=What)
    instead_of = models.ForeignKey(
        "self",
        models.SET_NULL,
        null=True,
        blank=True,
        related_name="replacements",
        verbose_name=_("instead of"),
    )
    replaced_at = models.DateTimeField(null=True, editable=False)
    state = models.CharField(_("state"), max_length=8, choices=State, default=State.WAITING)
    tries = models.PositiveIntegerField(_("tries"), default=0)
    send_after = models.DateTimeField(default=timezone.now, editable=False)
    worker = models.CharField(max_length=120, blank=True, editable=False)
    heartbeat_at = models.DateTimeField(null=True, editable=False)
    handed_at = models.DateTimeField(null=True, editable=False)
    sent_at = models.DateTimeField(_("sent"), null=True, blank=True)
    error = models.CharField(_("reason"), max_length=400, blank=True, editable=False)
    created_at = models.DateTimeField(_("created"), default=timezone.now, db_index=True)

    objects = StaffOnlyQuerySet.as_manager()

    class Meta:
        verbose_name = _("message about alerts")
        verbose_name_plural = _("messages about alerts")
        ordering = ["-pk"]
        constraints = [models.UniqueConstraint(name="alert_delivery_once", fields=["route", "key"])]
        indexes = [models.Index(fields=["state", "send_after"])]

    def __str__(self) -> str:
        return f"{self.route} · {moment(self.created_at)}"


class AlertTelling(models.Model):
    """That an alert is told by a route, once for each severity that it comes to and once for its end."""

    class What(models.TextChoices):
        RAISED = "raised", pgettext_lazy("alert route", "raised")
        CLEARED = "cleared", pgettext_lazy("alert route", "cleared")
        DIGEST = "digest", pgettext_lazy("alert route", "digest")

    alert = models.ForeignKey(Alert, models.CASCADE, related_name="tellings")
    route = models.ForeignKey(AlertRoute, models.CASCADE, related_name="tellings")
    delivery = models.ForeignKey(AlertDelivery, models.CASCADE, related_name="tellings")
    what = models.CharField(max_length=8, choices=What)
    severity = models.CharField(max_length=12, choices=Severity)

    objects = StaffOnlyQuerySet.as_manager()

    class Meta:
        ordering = ["pk"]
        constraints = [
            models.UniqueConstraint(name="alert_telling_once", fields=["alert", "route", "what", "severity"])
        ]

    def __str__(self) -> str:
        return f"{self.alert} · {self.route}"


def told_of(alert: Alert) -> Any:
    """What was told of an alert, the newest first."""
    return alert.tellings.select_related("delivery", "route").order_by("-pk")
