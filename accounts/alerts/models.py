"""Alerts, what operators changed of their rules, and by which ways they are told."""

from datetime import datetime
from typing import Any, Self

from django.conf import settings
from django.db import models
from django.db.models import Case, F, Q, Value, When
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import get_language, gettext, gettext_noop, pgettext_lazy
from django.utils.translation import gettext_lazy as _

from accounts.alerts.rules import Changes, Kind, rule_of
from derpmgmt.lib.lines import LineField

# In place of a person's note, where an alert ended since nobody read it.
NOT_READ = gettext_noop("Nothing was read of it any more.")


class Severity(models.TextChoices):
    """How bad something is."""

    INFORMATION = "information", _("information")
    WARNING = "warning", _("warning")
    CRITICAL = "critical", _("critical")


class AlertQuerySet(models.QuerySet["Alert"]):
    """Alerts by who may see them."""

    def visible_to(self, user: Any) -> Self:
        """Operators see all that were raised, a customer those that concern them, anybody else none."""
        if not user.is_authenticated:
            return self.none()
        shown = self.exclude(state=Alert.State.PENDING)
        return shown if user.is_staff else shown.filter(customer=user)

    def concerning(self, customer: int, since: datetime) -> Self:
        """What is wrong for a customer (primary key), and what was since then: what lasts first, then the newest."""
        mine = self.filter(customer=customer, raised_at__isnull=False)
        shown = mine.filter(Q(gone_at=None) | Q(gone_at__gt=since))
        return shown.order_by(F("gone_at").desc(nulls_first=True), "-pk")

    def active(self) -> Self:
        """Raised, not over, and nobody has said that it is dealt with."""
        return self.filter(state=Alert.State.ACTIVE)


class Alert(models.Model):
    """Something that is wrong with one thing, from when it was seen until it is well again.

    `thing` is the key of what it is about; `open` is NULL once that is well again, so at most one is open for each kind and thing. One
    that a person resolved stays open in this sense while its cause lasts, and so is not raised again. `pending` is what was not bad for
    long enough; nobody sees it. The words are the rule's with `values`, or what a room said in each language (`values["said"]`), so
    that everybody reads them in their own.
    """

    class State(models.TextChoices):
        PENDING = "pending", pgettext_lazy("alert", "not raised yet")
        ACTIVE = "active", pgettext_lazy("alert", "active")
        CLEARED = "cleared", pgettext_lazy("alert", "cleared")
        RESOLVED = "resolved", pgettext_lazy("alert", "resolved")

    class Source(models.TextChoices):
        MATTERS = "matters"
        READING = "reading"
        PERSON = "person"

    kind = models.CharField(_("kind"), max_length=16, choices=Kind)
    rule = models.CharField(max_length=24, editable=False)
    thing = models.CharField(max_length=120, editable=False)
    source = models.CharField(max_length=8, choices=Source, editable=False)
    severity = models.CharField(_("severity"), max_length=12, choices=Severity)
    state = models.CharField(_("state"), max_length=8, choices=State, default=State.PENDING)
    values = models.JSONField(default=dict, blank=True, editable=False)
    # Where it is looked at, and what the thing, its server and its region are; the rooms above know more of those.
    url = models.CharField(max_length=300, blank=True, editable=False)
    name = LineField(_("about"), max_length=120, blank=True)
    server = models.PositiveBigIntegerField(null=True, editable=False, db_index=True)
    region = models.PositiveBigIntegerField(null=True, editable=False)
    customer = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.SET_NULL,
        null=True,
        blank=True,
        related_name="alerts",
        verbose_name=_("customer"),
    )
    since = models.DateTimeField(_("since"))
    bad_since = models.DateTimeField(editable=False)
    well_since = models.DateTimeField(null=True, editable=False)
    seen_at = models.DateTimeField(_("last seen"), editable=False)
    # When it was last read at all, be it well or not.
    looked_at = models.DateTimeField(editable=False)
    raised_at = models.DateTimeField(_("raised"), null=True, blank=True, db_index=True)
    # When the thing was well again; of what a person resolved too.
    gone_at = models.DateTimeField(_("well again"), null=True, blank=True, db_index=True)
    resolved_at = models.DateTimeField(_("resolved"), null=True, blank=True)
    resolved_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.SET_NULL,
        null=True,
        blank=True,
        related_name="+",
        verbose_name=_("resolved by"),
    )
    note = LineField(_("note"), max_length=300, blank=True)
    # NULL once the thing is well again, and NULLs never collide in a unique index.
    open = models.GeneratedField(
        expression=Case(When(Q(gone_at__isnull=True), then=Value(1)), default=None),
        output_field=models.SmallIntegerField(null=True),
        db_persist=True,
    )

    objects = AlertQuerySet.as_manager()

    class Meta:
        verbose_name = _("alert")
        verbose_name_plural = _("alert history")
        ordering = ["-pk"]
        constraints = [models.UniqueConstraint(name="alert_open_once", fields=["kind", "thing", "open"])]
        indexes = [models.Index(fields=["state", "severity"])]

    def __str__(self) -> str:
        return self.title

    @property
    def title(self) -> str:
        """What is wrong, in the language of the page."""
        said = self._said()
        return said[0] if said else str(rule_of(self.rule).title)

    @property
    def text(self) -> str:
        """More of it; "" where there is no more to say."""
        said = self._said()
        if said:
            return said[1]
        sentence = str(rule_of(self.rule).sentence)
        values = {"name": self.name, "value": "–"} | self.values
        try:
            return sentence % values if sentence else ""
        except (
            KeyError,
            ValueError,
            TypeError,
        ):  # of another version of the panel, whose sentence had other places
            return sentence

    @property
    def own_text(self) -> str:
        """What the customer whom it concerns reads of it; "" where that is nothing."""
        own = self.values.get("own") or {}
        return str(own.get(get_language() or "") or next(iter(own.values()), ""))

    def _said(self) -> tuple[str, str] | None:
        said = self.values.get("said")
        if not said:
            return None
        title, text = (
            said.get(get_language() or "") or said.get(settings.LANGUAGE_CODE) or next(iter(said.values()))
        )
        return str(title), str(text)

    @property
    def page(self) -> str:
        """Where it is looked at: at the thing, else at the alert itself."""
        return self.url or reverse("admin:accounts_alert_change", args=[self.pk])

    @property
    def note_text(self) -> str:
        """The note as it is read: a person's as they wrote it."""
        return gettext(NOT_READ) if self.note == NOT_READ else self.note


class StaffOnlyQuerySet(models.QuerySet[Any]):
    """What concerns operators alone."""

    def visible_to(self, user: Any) -> Self:
        return self.all() if user.is_authenticated and user.is_staff else self.none()


class AlertRule(models.Model):
    """What operators changed of a rule, for all servers (`server` 0) or for one; what is empty leaves the default."""

    rule = models.CharField(_("rule"), max_length=24)
    server = models.PositiveBigIntegerField(_("server"), default=0)
    is_on = models.BooleanField(_("raises alerts"), default=True)
    severity = models.CharField(
        _("severity"),
        max_length=12,
        choices=Severity,
        blank=True,
        help_text=_("Empty = as bad as it is."),
    )
    warning = models.FloatField(_("warning from"), null=True, blank=True)
    critical = models.FloatField(_("critical from"), null=True, blank=True)
    raise_seconds = models.PositiveIntegerField(_("raised after (seconds)"), null=True, blank=True)
    clear_seconds = models.PositiveIntegerField(_("cleared after (seconds)"), null=True, blank=True)
    changed_at = models.DateTimeField(_("changed"), default=timezone.now, editable=False)

    objects = StaffOnlyQuerySet.as_manager()

    class Meta:
        verbose_name = _("alert rule")
        verbose_name_plural = _("alert rules")
        ordering = ["rule", "server"]
        constraints = [
            models.UniqueConstraint(
                name="alert_rule_once",
                fields=["rule", "server"],
                violation_error_message=_("This rule is changed for this server already."),
            )
        ]

    def __str__(self) -> str:
        return str(rule_of(self.rule).title)

    @property
    def changes(self) -> Changes:
        """What is changed, for `rules`."""
        return Changes(
            self.warning, self.critical, self.raise_seconds, self.clear_seconds, self.severity, self.is_on
        )
