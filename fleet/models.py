"""Servers, where they stand, and how they are reached."""

from collections import defaultdict
from datetime import datetime, timedelta
from typing import Any, Self

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.db.models import Case, F, Q, Value, When
from django.utils import timezone
from django.utils.translation import get_language
from django.utils.translation import gettext_lazy as _

from derpmgmt.lib.crypto import EncryptedTextField
from derpmgmt.lib.lines import LineField
from derpmgmt.lib.moments import moment
from derpmgmt.lib.problems import explain, translate
from derpmgmt.lib.retries import Retry
from fleet.addresses import check_address, read_host, read_socket_path
from fleet.ports import check_ports

_port = [MinValueValidator(1), MaxValueValidator(65535)]


class StaffOnlyQuerySet(models.QuerySet[Any]):
    """Rows of the operators' side: admins see all of them, nobody else any."""

    def visible_to(self, user: Any) -> Self:
        return self.all() if user.is_authenticated and user.is_staff else self.none()


class Region(models.Model):
    """A place where servers stand; its name is what customers read in `tailscale netcheck`."""

    code = models.SlugField(_("code"), max_length=8, unique=True, help_text=_("Short, e.g. sh for Shanghai."))
    name_zh = LineField(_("name in Chinese"), max_length=40)
    name_en = LineField(_("name in English"), max_length=40)
    latitude = models.FloatField(_("latitude"), null=True, blank=True)
    longitude = models.FloatField(_("longitude"), null=True, blank=True)

    objects = StaffOnlyQuerySet.as_manager()

    class Meta:
        verbose_name = _("region")
        verbose_name_plural = _("regions")
        ordering = ["code"]

    def __str__(self) -> str:
        return self.name

    @property
    def name(self) -> str:
        """The name in the language of the page."""
        return self.name_zh if (get_language() or "zh").startswith("zh") else self.name_en


class ProviderAccount(models.Model):
    """The account at a cloud provider under which servers are rented; the phone number is shown masked only."""

    provider = LineField(_("provider"), max_length=40)
    name = LineField(_("account name"), max_length=60)
    phone = EncryptedTextField(_("phone number"), blank=True)

    objects = StaffOnlyQuerySet.as_manager()

    class Meta:
        verbose_name = _("provider account")
        verbose_name_plural = _("provider accounts")
        ordering = ["provider", "name"]

    def __str__(self) -> str:
        return f"{self.provider} · {self.name}"

    @property
    def phone_masked(self) -> str:
        """The number with all but its first three and last two characters hidden: `138••••••78`."""
        if len(self.phone) < 7:
            return "•" * len(self.phone)
        return f"{self.phone[:3]}{'•' * (len(self.phone) - 5)}{self.phone[-2:]}"


class SshCredential(models.Model):
    """How the panel signs in at servers: a private key, a password, or both. Both are encrypted at rest."""

    name = LineField(_("name"), max_length=60, unique=True)
    username = LineField(_("user on the server"), max_length=32, default="root")
    private_key = EncryptedTextField(_("private key"), blank=True)
    password = EncryptedTextField(_("password"), blank=True)

    objects = StaffOnlyQuerySet.as_manager()

    class Meta:
        verbose_name = _("SSH credential")
        verbose_name_plural = _("SSH credentials")
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


# Of a server that was visited longer ago nobody knows how it is.
FRESH = timedelta(minutes=1)
# When a server that did not answer is asked again: the second try, too, fails within the minute after which it is an alert.
CONTACT = Retry(timedelta(seconds=5), timedelta(minutes=5), "contact_failures", "next_contact_at")


class ServerQuerySet(StaffOnlyQuerySet):
    """Servers by what may be done with them."""

    def usable(self) -> Self:
        """New relays may be placed on these."""
        return self.filter(status=Server.Status.HEALTHY).exclude(host_key="")

    def managed(self) -> Self:
        """The panel keeps relays right on these: everything that was accepted once and is not retired."""
        return self.exclude(status__in=[Server.Status.NEW, Server.Status.RETIRED]).exclude(host_key="")

    def due_for_contact(self, now: Any) -> Self:
        """Not skipped because of a contact that failed."""
        return self.filter(CONTACT.due(now))


def retired_name(name: str, pk: object) -> str:
    """What a server that was removed is called from then on, so that its name is free again."""
    return f"{name[:48]} †{pk}"


class Server(models.Model):
    """A machine with SSH and a Docker Engine on which relays run.

    `busy_by` and `busy_until` are the lease of the one worker that may change it now; `next_contact_at` is set while its last
    contact failed, so that a dead server costs its neighbours one time limit at most. `silent_since` is set from the first contact
    that failed until the next one that goes well (`fleet.outages`).
    """

    class Status(models.TextChoices):
        NEW = "new", _("being added")
        HEALTHY = "healthy", _("healthy")
        UNHEALTHY = "unhealthy", _("unhealthy")
        MAINTENANCE = "maintenance", _("in maintenance")
        DRAINING = "draining", _("draining")
        RETIRED = "retired", _("retired")

    name = LineField(_("name"), max_length=60, unique=True)
    region = models.ForeignKey(Region, models.PROTECT, related_name="servers", verbose_name=_("region"))
    provider_account = models.ForeignKey(
        ProviderAccount,
        models.PROTECT,
        null=True,
        blank=True,
        related_name="servers",
        verbose_name=_("provider account"),
    )
    address = models.GenericIPAddressField(
        _("public address"), protocol="IPv4", help_text=_("The IPv4 address that customers' devices reach.")
    )
    bind_address = models.GenericIPAddressField(
        _("address on the machine"),
        protocol="IPv4",
        null=True,
        blank=True,
        help_text=_(
            "Where the provider translates addresses: the machine's own IPv4; empty = the public one."
        ),
    )
    ssh_host = LineField(
        _("address for SSH"), max_length=253, blank=True, help_text=_("Empty = the public address.")
    )
    ssh_port = models.PositiveIntegerField(_("SSH port"), default=22, validators=_port)
    credential = models.ForeignKey(
        SshCredential, models.PROTECT, related_name="servers", verbose_name=_("SSH credential")
    )
    host_key = models.CharField(
        _("pinned host key"),
        max_length=1200,
        blank=True,
        editable=False,
        validators=[RegexValidator(r"^\S+ \S+$")],
    )
    # A person confirmed the key above, and no check has been made since.
    is_check_due = models.BooleanField(default=False, editable=False)
    docker_socket = models.CharField(_("Docker socket"), max_length=200, default="/var/run/docker.sock")
    capacity = models.PositiveIntegerField(_("capacity (relays)"), default=50)
    tcp_port_first = models.PositiveIntegerField(_("first TCP port"), default=20000, validators=_port)
    tcp_port_last = models.PositiveIntegerField(_("last TCP port"), default=20999, validators=_port)
    udp_port_first = models.PositiveIntegerField(_("first UDP port"), default=20000, validators=_port)
    udp_port_last = models.PositiveIntegerField(_("last UDP port"), default=20999, validators=_port)

    is_fail_open = models.BooleanField(
        _("let everybody in when nobody can be asked"),
        default=False,
        help_text=_(
            "When neither the panel nor the server's gate answers: off = nobody new gets in, on = everybody does."
        ),
    )

    traffic_reset_day = models.PositiveSmallIntegerField(
        _("traffic resets on day"),
        default=1,
        validators=[MinValueValidator(1), MaxValueValidator(31)],
        help_text=_(
            "Day of the month on which the provider counts anew (1–31); in shorter months their last day."
        ),
    )

    traffic_limit_bytes = models.BigIntegerField(
        _("traffic a month"),
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text=_("Both ways together; empty = unlimited."),
    )
    customer_limit = models.PositiveIntegerField(
        _("capacity (customers)"), null=True, blank=True, help_text=_("Empty = as many as it has relays for.")
    )
    # On which day its traffic of the month will be used up, as it goes; and since when it is, so that relays had to stop.
    traffic_runs_out_on = models.DateField(_("traffic runs out on"), null=True, blank=True, editable=False)
    traffic_over_at = models.DateTimeField(_("traffic used up"), null=True, blank=True, editable=False)

    status = models.CharField(_("state"), max_length=12, choices=Status, default=Status.NEW, db_index=True)
    # Why it is in its state: what a person wrote, or an error's code and values (`reason` reads both).
    status_reason = models.TextField(_("reason"), blank=True)
    status_code = models.CharField(_("error code"), max_length=32, blank=True, default="", editable=False)
    status_values = models.JSONField(default=dict, blank=True, editable=False)
    # The code of what is wrong with it though it answers (`services.record_fault`).
    fault = models.CharField(max_length=32, blank=True, editable=False)
    fault_since = models.DateTimeField(null=True, editable=False)
    in_use = models.GeneratedField(
        expression=Case(When(~Q(status="retired"), then=Value(1)), default=None),
        output_field=models.SmallIntegerField(null=True),
        db_persist=True,
    )
    load_ratio = models.FloatField(_("load per core"), null=True, blank=True, editable=False)
    memory_bytes = models.BigIntegerField(_("memory in bytes"), null=True, blank=True, editable=False)
    disk_free_bytes = models.BigIntegerField(_("free disk in bytes"), null=True, blank=True, editable=False)
    # What the last visit found: shares from 0 to 1, bytes a second on the public interface, how long the answer took, and by how many
    # seconds its clock is ahead of ours.
    cpu_share = models.FloatField(null=True, blank=True, editable=False)
    memory_share = models.FloatField(null=True, blank=True, editable=False)
    disk_share = models.FloatField(null=True, blank=True, editable=False)
    receive_rate = models.FloatField(null=True, blank=True, editable=False)
    send_rate = models.FloatField(null=True, blank=True, editable=False)
    answer_ms = models.FloatField(null=True, blank=True, editable=False)
    clock_offset = models.FloatField(null=True, blank=True, editable=False)
    docker_version = models.CharField(_("Docker version"), max_length=40, blank=True, editable=False)
    # Which machine it is (`fleet.machine`); NULL until it was read, and NULLs never collide in a unique index.
    engine_id = models.CharField(max_length=100, null=True, editable=False)  # noqa: DJ001
    engine_root = models.CharField(_("Docker's folder"), max_length=200, blank=True, editable=False)
    host_fingerprint = models.CharField(max_length=80, null=True, editable=False)  # noqa: DJ001
    boot_id = models.CharField(max_length=64, null=True, editable=False)  # noqa: DJ001
    panel_seen_as = models.GenericIPAddressField(
        _("sees the panel as"),
        null=True,
        blank=True,
        editable=False,
        help_text=_(
            "Where its SSH server says that the panel comes from, when it is reached at its public address."
        ),
    )
    # The same of another way to it (`ssh_host`), and at which address of its own it is reached on that way.
    panel_seen_privately_as = models.GenericIPAddressField(null=True, blank=True, editable=False)
    private_address = models.GenericIPAddressField(null=True, blank=True, editable=False)
    last_contact_at = models.DateTimeField(_("last contact"), null=True, blank=True, editable=False)
    last_visit_at = models.DateTimeField(_("last visit"), null=True, blank=True, editable=False)
    contact_failures = models.PositiveIntegerField(_("failed contacts in a row"), default=0, editable=False)
    next_contact_at = models.DateTimeField(
        _("next contact not before"), null=True, blank=True, editable=False
    )
    silent_since = models.DateTimeField(
        _("does not answer since"), null=True, blank=True, db_index=True, editable=False
    )
    busy_by = models.CharField(_("busy with"), max_length=120, blank=True, editable=False)
    busy_until = models.DateTimeField(_("busy until"), null=True, blank=True, editable=False)
    created_at = models.DateTimeField(_("added"), default=timezone.now, editable=False)

    objects = ServerQuerySet.as_manager()

    class Meta:
        verbose_name = _("server")
        verbose_name_plural = _("servers")
        ordering = ["name"]
        constraints = [
            models.UniqueConstraint(
                name="server_address_once",
                # Servers behind one address are told apart by their SSH ports (and have port ranges of their own).
                fields=["address", "ssh_port", "in_use"],
                violation_error_message=_("There is a server with this address already."),
            ),
            models.UniqueConstraint(
                name="server_engine_once", fields=["boot_id", "engine_id", "engine_root", "in_use"]
            ),
            models.UniqueConstraint(
                name="server_machine_once", fields=["boot_id", "host_fingerprint", "in_use"]
            ),
            models.CheckConstraint(
                name="server_port_ranges_are_ranges",
                condition=Q(tcp_port_first__lte=F("tcp_port_last"), udp_port_first__lte=F("udp_port_last")),
                violation_error_message=_("A port range ends before it begins."),
            ),
        ]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        """What more than one field says. Raises `ValidationError` with the field that is to be changed."""
        super().clean()
        problems: dict[str, list[Any]] = defaultdict(list)
        for name, said in self.read_addresses().items():
            problems[name].append(said)
        try:
            self.docker_socket = read_socket_path(self.docker_socket)
        except ValidationError as error:
            problems["docker_socket"].append(error)
        for name, said in check_ports(self):
            problems[name].append(said)
        found = {name: said for name, said in problems.items() if said}
        if found:
            raise ValidationError(found)

    def read_addresses(self) -> dict[str, ValidationError]:
        """Bring `ssh_host` into its common form; what is wrong with the addresses, by field. Not well-formed ones are their fields'
        business."""
        problems = {}
        for name in ("address", "bind_address"):
            try:
                check_address(getattr(self, name))
            except ValidationError as error:
                problems[name] = error
            except ValueError:
                continue
        try:
            self.ssh_host = read_host(self.ssh_host)
        except ValidationError as error:
            problems["ssh_host"] = error
        return problems

    @property
    def reason(self) -> str:
        """Why it is in its state, in the language of the page; empty where there is nothing to say."""
        if self.status_code:
            return explain(self.status_code, self.status_values, self.status_reason)
        return translate(self.status_reason, {})

    @property
    def unhealthy_since(self) -> datetime | None:
        """As `unhealthy_since`."""
        return unhealthy_since(self.status, self.silent_since, self.fault_since)

    def fresh(self, figure: float | None) -> float | None:
        """A figure of the last visit; None where that was too long ago to say how the server is now."""
        at = self.last_visit_at
        return figure if at is not None and timezone.now() - at <= FRESH else None

    @property
    def ssh_address(self) -> str:
        """Where SSH connects to."""
        return self.ssh_host or self.address

    @property
    def listen_address(self) -> str:
        """The IPv4 address that relays' ports are bound to."""
        return self.bind_address or self.address


def unhealthy_since(
    status: str, silent_since: datetime | None, fault_since: datetime | None
) -> datetime | None:
    """Since when a server does not answer or does not do its work; None while it is in another state, or where nobody noted it."""
    moments = [at for at in (silent_since, fault_since) if at]
    return min(moments) if moments and status == Server.Status.UNHEALTHY else None


class Blindness(models.Model):
    """A time in which the panel reached no server at all, that is over; the last one stays (`fleet.outages`)."""

    ended_at = models.DateTimeField()

    objects = StaffOnlyQuerySet.as_manager()

    def __str__(self) -> str:
        return f"{moment(self.ended_at)}"


# After this many failed contacts in a row a healthy server counts as unhealthy.
UNHEALTHY_AFTER = 2


# Django looks for a room's tables here.
from fleet.sample_models import HourDue, LoadHour, LoadSample  # noqa: E402, F401
