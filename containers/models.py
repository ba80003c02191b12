"""Relays and gates on servers, and the work that was done on them."""

from datetime import datetime, timedelta
from typing import Any, ClassVar, Self

from django.db import models
from django.db.models import Case, Q, Value, When
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from containers.spec import INNER_STUN_PORT
from derpmgmt.lib.crypto import EncryptedTextField
from derpmgmt.lib.jobs import JobQuerySet, JobRecord
from derpmgmt.lib.moments import exact
from derpmgmt.lib.retries import Retried, Retry
from fleet.models import Server, StaffOnlyQuerySet
from serials.rentals.limits import Limited
from serials.rentals.models import ByRentalQuerySet, Rental

# When a relay, or a gate, that could not be made is tried again; and a gate's list that the host did not take.
RETRY = Retry(first=timedelta(seconds=5), longest=timedelta(minutes=5))
RATE_RETRY = Retry(RETRY.first, RETRY.longest, "rate_failures", "rate_try_after")
LIST_RETRY = Retry(RETRY.first, RETRY.longest, "list_failures", "list_try_after")


class RelayQuerySet(ByRentalQuerySet["Relay"]):
    """Relays by what they are and by who may see them."""

    def update(self, **values: Any) -> int:
        """As Django's, and notes when the rows changed, so that a sweep over all relays looks at few of them."""
        return super().update(**{"changed_at": timezone.now(), **values})

    def live(self) -> Self:
        """Everything that stands on a host or is to stand there."""
        return self.exclude(status=Relay.Status.RELEASED)

    def wanted(self) -> Self:
        """Those that the rental's customer should have, as opposed to surplus ones on their way out."""
        return self.exclude(slot=None)

    def to_prove(self) -> Self:
        """Those that customers may have in their maps, so that they are proven on a schedule."""
        return self.filter(
            status__in=[Relay.Status.RUNNING, Relay.Status.FAILED],
            proven_at__isnull=False,
            rental__isnull=False,
        )

    def carrying(self) -> Self:
        """Those of which nothing says that they do not carry packets now: the server answers, the last test passed."""
        return self.filter(status=Relay.Status.RUNNING, failing_since=None, server__silent_since=None)

    def in_map(self) -> Self:
        """Those that the customer's map leads to, or will in a moment: proven once, and in a place of theirs."""
        return self.filter(
            proven_at__isnull=False, slot__isnull=False, status__in=["planned", "running", "failed"]
        )

    def coming_up(self) -> Self:
        """Those that are being made and have carried no packet yet, as far as nothing went wrong."""
        return self.filter(status="planned", proven_at__isnull=True)

    def retiring(self) -> Self:
        """Those that only stand until their customer's devices have gone over to the successor."""
        return self.live().filter(retiring_since__isnull=False).exclude(status=Relay.Status.REMOVING)


class Relay(Limited, Retried):
    """One derper of one customer on one server.

    `slot` (1–3) says which of the customer's three it is; a surplus relay has none and goes. `status` is what was last done;
    what should be is decided from `slot`. Ports and slots are unique among live rows (`live` is NULL for released ones, and
    NULLs never collide in a unique index); a released row keeps its keys, so that the same relay can come back: one whose
    customer's rights ended, or that is stopped because its own traffic is used up (`stopped_at`), has `return_slot`, the place it comes
    back to; a stopped one keeps that from all others. A successor (`replaces`) is made beside its
    predecessor and takes the slot over once it is proven; from then on the predecessor is retiring (`retiring_since`).
    """

    # What is decrypted, or long, and only a host or a test needs: lists and maps leave it out.
    SECRETS = ("certificate", "certificate_key", "private_key", "mesh_key")

    class Status(models.TextChoices):
        PLANNED = "planned", _("being prepared")
        RUNNING = "running", _("running")
        FAILED = "failed", _("failed")
        REMOVING = "removing", _("being removed")
        RELEASED = "released", _("released")

    rental = models.ForeignKey(
        Rental,
        models.PROTECT,
        null=True,
        blank=True,
        related_name="relays",
        verbose_name=_("rental"),
        help_text=_("Empty for the throw-away relay that proves a server."),
    )
    server = models.ForeignKey(Server, models.PROTECT, related_name="relays", verbose_name=_("server"))
    slot = models.PositiveSmallIntegerField(_("place"), null=True, blank=True)
    # The place that it has, takes over or had: what flowed there in a month is that of all relays which had it one after another.
    place = models.PositiveSmallIntegerField(null=True, blank=True, editable=False)
    status = models.CharField(_("state"), max_length=8, choices=Status, default=Status.PLANNED, db_index=True)
    live = models.GeneratedField(
        expression=Case(When(~Q(status="released"), then=Value(1)), default=None),
        output_field=models.SmallIntegerField(null=True),
        db_persist=True,
    )
    wanted = models.GeneratedField(
        expression=Case(When(Q(slot__isnull=False), then=Value(1)), default=None),
        output_field=models.SmallIntegerField(null=True),
        db_persist=True,
    )
    derp_port = models.PositiveIntegerField(_("DERP port (TCP)"))
    stun_port = models.PositiveIntegerField(_("STUN port (UDP)"))
    # STUN's port inside the container; 3478 for relays from before it was the host's (`containers.services.relays.inner_port`).
    inner_stun_port = models.PositiveIntegerField(default=INNER_STUN_PORT, editable=False)
    # Whether its container reads rates from a file (`RelaySpec.takes_rate`); relays from before that get it when they are made anew.
    takes_rate = models.BooleanField(default=True, editable=False)
    # How many bytes a second each device may send, NULL for any; since when the host has not got that yet.
    rate = models.BigIntegerField(_("rate limit now"), null=True, blank=True, editable=False)
    rate_owed_at = models.DateTimeField(null=True, blank=True, db_index=True, editable=False)
    rate_failures = models.PositiveIntegerField(default=0, editable=False)
    rate_try_after = models.DateTimeField(null=True, blank=True, editable=False)
    image = models.CharField(_("image"), max_length=80, blank=True, editable=False)
    certificate = models.TextField(_("certificate"), editable=False)
    certificate_key = EncryptedTextField(editable=False)
    certificate_sha256 = models.CharField(_("certificate pin"), max_length=64, editable=False)
    certificate_address = models.GenericIPAddressField(
        _("address in the certificate"), protocol="IPv4", editable=False
    )
    certificate_ends_at = models.DateTimeField(_("certificate ends"), editable=False)
    private_key = EncryptedTextField(editable=False)
    public_key = models.CharField(_("public key"), max_length=64, editable=False)
    mesh_key = EncryptedTextField(editable=False)
    proven_at = models.DateTimeField(_("first carried a packet"), null=True, blank=True, editable=False)
    return_slot = models.PositiveSmallIntegerField(
        _("comes back to place"), null=True, blank=True, editable=False
    )
    replaces = models.ForeignKey(
        "self",
        models.SET_NULL,
        null=True,
        blank=True,
        related_name="successors",
        editable=False,
        verbose_name=_("successor of"),
    )
    retiring_since = models.DateTimeField(
        _("retiring since"), null=True, blank=True, db_index=True, editable=False
    )
    # When it is proven again without anybody's asking, and since when it carries no packets, as far as tests tell.
    prove_after = models.DateTimeField(_("next test"), default=timezone.now, editable=False)
    failing_since = models.DateTimeField(
        _("carries no packets since"), null=True, blank=True, db_index=True, editable=False
    )
    failing_told_at = models.DateTimeField(_("customer was told"), null=True, blank=True, editable=False)
    # How long a device of its customer's took to it, when that was pasted last.
    client_ms = models.FloatField(null=True, blank=True, editable=False)
    client_measured_at = models.DateTimeField(null=True, blank=True, editable=False)
    probe_asked_at = models.DateTimeField(_("test asked for"), null=True, blank=True, editable=False)
    last_health = models.ForeignKey(
        "RelayHealth", models.SET_NULL, null=True, blank=True, related_name="+", editable=False
    )
    created_at = models.DateTimeField(_("created"), default=timezone.now)
    changed_at = models.DateTimeField(_("changed"), default=timezone.now, db_index=True, editable=False)
    released_at = models.DateTimeField(_("released"), null=True, blank=True, editable=False)
    # From when on its traffic is counted; NULL until the first reading of one that ran before traffic was counted at all.
    metered_since = models.DateTimeField(null=True, default=timezone.now, editable=False)

    objects = RelayQuerySet.as_manager()

    class Meta:
        verbose_name = _("relay")
        verbose_name_plural = _("relays")
        ordering = ["slot", "pk"]
        constraints = [
            models.UniqueConstraint(name="relay_derp_port_once", fields=["server", "derp_port", "live"]),
            models.UniqueConstraint(name="relay_stun_port_once", fields=["server", "stun_port", "live"]),
            models.UniqueConstraint(name="relay_slot_once", fields=["rental", "slot"]),
            models.UniqueConstraint(name="relay_wanted_once_a_server", fields=["rental", "server", "wanted"]),
            models.CheckConstraint(
                name="relay_released_has_no_slot", condition=~Q(status="released") | Q(slot=None)
            ),
        ]
        indexes = [
            models.Index(fields=["status", "try_after"]),
            models.Index(fields=["status", "certificate_ends_at"]),
            models.Index(fields=["status", "prove_after"]),
        ]

    def __str__(self) -> str:
        return f"{self.server} · {self.derp_port}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        if self._state.adding and self.place is None:
            self.place = self.slot or (self.replaces.place if self.replaces else None)
        super().save(*args, **kwargs)

    def is_closed_since(self, moment: datetime) -> bool:
        """Whether nothing of it has been on its server since `moment`, so that nobody could reach it; one that comes back counts
        as closed until it has carried a packet."""
        if self.status != self.Status.RELEASED and (self.proven_at is not None or self.released_at is None):
            return False
        return self.released_at is None or self.released_at <= moment

    @property
    def is_throwaway(self) -> bool:
        """Whether it only proves a server and belongs to nobody."""
        return self.rental_id is None


class RelayHealth(models.Model):
    """One end-to-end test of a relay; times in milliseconds, empty where the test did not get that far."""

    relay = models.ForeignKey(Relay, models.CASCADE, related_name="health", verbose_name=_("relay"))
    at = models.DateTimeField(_("time"), default=timezone.now, db_index=True)
    is_ok = models.BooleanField(_("passed"))
    step = models.CharField(_("failed step"), max_length=12, blank=True)
    cause = models.CharField(_("likely cause"), max_length=32, blank=True)
    detail = models.CharField(_("details"), max_length=300, blank=True)
    tcp_ms = models.FloatField(null=True, blank=True)
    tls_ms = models.FloatField(null=True, blank=True)
    handshake_ms = models.FloatField(null=True, blank=True)
    packet_ms = models.FloatField(null=True, blank=True)
    stun_ms = models.FloatField(null=True, blank=True)
    # How much the round trips on one connection, and of STUN's packets, differ from one to the next, and the share of 1 that was lost.
    tcp_jitter_ms = models.FloatField(null=True, blank=True)
    stun_jitter_ms = models.FloatField(null=True, blank=True)
    stun_loss = models.FloatField(null=True, blank=True)
    mapped_address = models.GenericIPAddressField(_("STUN saw us come from"), null=True, blank=True)

    class Meta:
        verbose_name = _("relay test")
        verbose_name_plural = _("relay tests")
        ordering = ["-pk"]
        indexes = [models.Index(fields=["relay", "at"])]

    def __str__(self) -> str:
        return f"{self.relay_id} {exact(self.at)}"


class Gate(Retried):
    """The one container of a server that its relays ask for admission; it passes their questions on to the panel.

    `secret` proves to the panel which server asks; `secret_hash` finds it. While the panel is away the gate answers from the
    list that was left with it: `list_changed_at` is when the list should have become another one, `list_delivered_at` the
    moment as of which the host has it, `list_hash` what it has; `list_failures` and `list_try_after` are of one that the host
    does not take.
    """

    class Status(models.TextChoices):
        PLANNED = "planned", _("being prepared")
        RUNNING = "running", _("running")
        FAILED = "failed", _("failed")

    server = models.OneToOneField(Server, models.CASCADE, related_name="gate", verbose_name=_("server"))
    status = models.CharField(_("state"), max_length=8, choices=Status, default=Status.PLANNED, db_index=True)
    secret = EncryptedTextField(editable=False)
    secret_hash = models.CharField(max_length=64, unique=True, editable=False)
    image = models.CharField(_("image"), max_length=80, blank=True, editable=False)
    running_since = models.DateTimeField(_("running since"), null=True, blank=True, editable=False)
    list_changed_at = models.DateTimeField(
        _("list changed"), null=True, blank=True, db_index=True, editable=False
    )
    list_delivered_at = models.DateTimeField(_("list delivered"), null=True, blank=True, editable=False)
    list_hash = models.CharField(max_length=64, blank=True, editable=False)
    list_failures = models.PositiveIntegerField(default=0, editable=False)
    list_try_after = models.DateTimeField(null=True, blank=True, editable=False)

    objects = StaffOnlyQuerySet.as_manager()

    class Meta:
        verbose_name = _("gate")
        verbose_name_plural = _("gates")

    def __str__(self) -> str:
        return str(self.server)

    @property
    def is_list_late(self) -> bool:
        """Whether a change of the list has not reached the host yet."""
        if self.list_changed_at is None:
            return False
        return self.list_delivered_at is None or self.list_delivered_at < self.list_changed_at


class DeploymentQuerySet(JobQuerySet):
    """Deployments by who may see them."""

    def visible_to(self, user: Any) -> Self:
        """Admins see all, a customer those of their relays."""
        if not user.is_authenticated:
            return self.none()
        return self.all() if user.is_staff else self.filter(relay__rental__user=user)


class Deployment(JobRecord):
    """One try to make one relay's container as it should be; its log is what pages show as progress.

    `active` is NULL once it has ended, so at most one is open for each relay.
    """

    relay = models.ForeignKey(Relay, models.CASCADE, related_name="deployments", verbose_name=_("relay"))
    active = models.GeneratedField(
        expression=Case(When(Q(status__in=["queued", "running"]), then=Value(1)), default=None),
        output_field=models.SmallIntegerField(null=True),
        db_persist=True,
    )

    objects: ClassVar[Any] = DeploymentQuerySet.as_manager()

    class Meta(JobRecord.Meta):
        verbose_name = _("deployment")
        verbose_name_plural = _("deployments")
        constraints = [
            models.UniqueConstraint(name="deployment_open_once_a_relay", fields=["relay", "active"])
        ]

    def __str__(self) -> str:
        return f"#{self.pk} · {self.relay}"


class ServerCheckQuerySet(JobQuerySet):
    """Server checks by who may see them."""

    def visible_to(self, user: Any) -> Self:
        return self.all() if user.is_authenticated and user.is_staff else self.none()


class ServerCheck(JobRecord):
    """The checks that a server passes before it is used, ending with a throw-away relay that is probed."""

    server = models.ForeignKey(Server, models.CASCADE, related_name="checks", verbose_name=_("server"))
    active = models.GeneratedField(
        expression=Case(When(Q(status__in=["queued", "running"]), then=Value(1)), default=None),
        output_field=models.SmallIntegerField(null=True),
        db_persist=True,
    )
    findings = models.JSONField(_("findings"), default=list, blank=True)

    objects: ClassVar[Any] = ServerCheckQuerySet.as_manager()

    class Meta(JobRecord.Meta):
        verbose_name = _("server check")
        verbose_name_plural = _("server checks")
        constraints = [models.UniqueConstraint(name="server_check_open_once", fields=["server", "active"])]

    def __str__(self) -> str:
        return f"#{self.pk} · {self.server}"


# Django looks for a room's tables here.
from containers.sample_models import ClientLatency, RelaySample, RelaySampleHour  # noqa: E402, F401
from containers.traffic_models import (  # noqa: E402, F401
    TrafficCounter,
    TrafficDay,
    TrafficError,
    TrafficHour,
    TrafficMonth,
    TrafficServerMonth,
)
