"""People, and what they did."""

from typing import Any, Self, TypeVar

from django.contrib.auth.models import AbstractUser, UserManager
from django.core.serializers.json import DjangoJSONEncoder
from django.db import models
from django.utils import timezone
from django.utils.functional import cached_property
from django.utils.translation import gettext_lazy as _

from accounts import usernames, wordlist
from accounts.works import WORKS
from derpmgmt.lib.crypto import EncryptedTextField
from derpmgmt.lib.lines import LineField
from derpmgmt.lib.prepared import Prepared
from derpmgmt.lib.retries import Retried

# A user name is shown to others and stands beside the e-mail address, so it must look neither like one nor like another name.
USERNAME_VALIDATORS = usernames.VALIDATORS


_Row = TypeVar("_Row", bound=models.Model)


class OwnedQuerySet(models.QuerySet[_Row]):
    """Rows that each belong to one person, to whom `owner` leads: admins see all, anybody else their own."""

    owner = "user"

    def visible_to(self, user: Any) -> Self:
        if not user.is_authenticated:
            return self.none()
        return self.all() if user.is_staff else self.filter(**{self.owner: user.pk})


class UserQuerySet(OwnedQuerySet["User"]):
    """Accounts by who may see them."""

    owner = "pk"

    def in_state(self, state: str) -> Self:
        """Those in one of `User.State`."""
        conditions = {
            User.State.ACTIVE: models.Q(is_active=True),
            User.State.BANNED: models.Q(banned_at__isnull=False, closing_at=None, closed_at=None),
            User.State.CLOSING: models.Q(closing_at__isnull=False, closed_at=None),
            User.State.CLOSED: models.Q(closed_at__isnull=False),
        }
        return self.filter(conditions[User.State(state)])

    def closing(self) -> Self:
        """Those that were asked to be closed and of which something is still left; read from one index."""
        return self.filter(closed_at=None, closing_at__isnull=False)


class PanelUserManager(UserManager.from_queryset(UserQuerySet)):  # type: ignore[misc]
    """Django's manager with `UserQuerySet`; `createsuperuser` makes a super admin."""

    def get(self, *args: Any, **wanted: Any) -> Any:
        """As Django's; by SQL made once where it is by the key alone, as for each page of whoever is signed in."""
        if args or list(wanted) != ["pk"] or not isinstance(wanted["pk"], int):
            return super().get(*args, **wanted)
        for user in _BY_KEY.read(pk=wanted["pk"]):
            return user
        raise self.model.DoesNotExist

    def create_superuser(
        self, username: str, email: str | None = None, password: str | None = None, **extra: Any
    ) -> Any:
        extra["role"] = User.Role.SUPERADMIN
        extra.pop("is_staff", None)
        extra.pop("is_superuser", None)
        return self._create_user(username, email, password, **extra)


_BY_KEY = Prepared(lambda pk: User.objects.filter(pk=pk))


class User(AbstractUser):
    """An account: the e-mail address is the login, the user name its public name.

    `role` is the one truth about rights: `is_staff` and `is_superuser` follow it at every save. `banned_at`, `closing_at` and
    `closed_at` are the one truth about access: `is_active` follows them, so an account that is banned, being closed or closed
    can neither sign in nor go on with an open session. Address and user name are kept in lower case, so both are unique
    whatever the case.
    """

    class Role(models.TextChoices):
        USER = "user", _("customer")
        DISTRIBUTOR = "distributor", _("distributor")
        ADMIN = "admin", _("admin")
        SUPERADMIN = "superadmin", _("super admin")

    class State(models.TextChoices):
        ACTIVE = "active", _("active")
        BANNED = "banned", _("banned")
        CLOSING = "closing", _("closing")
        CLOSED = "closed", _("closed")

    email = models.EmailField(_("e-mail address"), unique=True)
    role = models.CharField(_("role"), max_length=12, choices=Role, default=Role.USER, db_index=True)
    language = models.CharField(_("language"), max_length=7, default="zh-hans")
    banned_at = models.DateTimeField(_("banned"), null=True, blank=True, db_index=True)
    # Closing was asked for at `closing_at` and is done at `closed_at`, when the last of what it had on hosts is gone.
    closing_at = models.DateTimeField(_("closing since"), null=True, blank=True)
    closed_at = models.DateTimeField(_("closed"), null=True, blank=True)
    closing_reason = LineField(_("reason of closing"), max_length=200, blank=True)
    # A keyed hash: finds the history of a closed account by the address it had, which is stored nowhere.
    former_email_hash = models.CharField(max_length=64, blank=True, db_index=True, editable=False)

    REQUIRED_FIELDS = ["email"]

    objects = PanelUserManager()  # type: ignore[misc]

    class Meta(AbstractUser.Meta):
        verbose_name = _("user")  # type: ignore[assignment]
        verbose_name_plural = _("users")  # type: ignore[assignment]
        indexes = [models.Index(fields=["closed_at", "closing_at"])]
        constraints = [
            models.CheckConstraint(
                name="user_flags_follow_role",
                condition=(
                    models.Q(role="superadmin", is_staff=True, is_superuser=True)
                    | models.Q(role="admin", is_staff=True, is_superuser=False)
                    | models.Q(role__in=["user", "distributor"], is_staff=False, is_superuser=False)
                ),
            ),
            models.CheckConstraint(
                name="user_active_unless_ended",
                condition=(
                    models.Q(is_active=True, banned_at=None, closing_at=None, closed_at=None)
                    | models.Q(
                        models.Q(banned_at__isnull=False)
                        | models.Q(closing_at__isnull=False)
                        | models.Q(closed_at__isnull=False),
                        is_active=False,
                    )
                ),
            ),
        ]

    def save(self, *args: Any, **kwargs: Any) -> None:
        self.email = self.email.lower()
        self.username = self.username.lower()
        self.is_staff = self.role in {self.Role.ADMIN, self.Role.SUPERADMIN}
        self.is_superuser = self.role == self.Role.SUPERADMIN
        self.is_active = self.banned_at is None and self.closing_at is None and self.closed_at is None
        if (fields := kwargs.get("update_fields")) is not None:
            followers = {
                "role": {"is_staff", "is_superuser"},
                "banned_at": {"is_active"},
                "closing_at": {"is_active"},
                "closed_at": {"is_active"},
            }
            kwargs["update_fields"] = set(fields).union(*(followers.get(name, set()) for name in fields))
        super().save(*args, **kwargs)

    @property
    def state(self) -> State:
        """Whether and why the account can be used no more; what is for good comes first."""
        if self.closed_at:
            return self.State.CLOSED
        if self.closing_at:
            return self.State.CLOSING
        return self.State.BANNED if self.banned_at else self.State.ACTIVE

    def has_perm(self, perm: str, obj: Any = None) -> bool:
        """Staff may use the whole admin; where a super admin is needed, the admin's own page or the service asks for one."""
        return self.is_active and self.is_staff

    def has_module_perms(self, app_label: str) -> bool:
        return self.is_active and self.is_staff

    def __str__(self) -> str:
        return self.email


class OperationLogQuerySet(models.QuerySet["OperationLog"]):
    """The activity log by who may read it."""

    def visible_to(self, user: Any) -> Self:
        """Admins read all of it, anybody else what they did themselves or what was done to their account."""
        if not user.is_authenticated:
            return self.none()
        if user.is_staff:
            return self.all()
        return self.filter(models.Q(actor=user) | models.Q(subject=user))


class OperationLog(models.Model):
    """Who did what to what, with which result; append-only, never with a secret in it."""

    at = models.DateTimeField(_("time"), auto_now_add=True, db_index=True)
    actor = models.ForeignKey(
        User, models.SET_NULL, null=True, blank=True, related_name="operations", verbose_name=_("who")
    )
    subject = models.ForeignKey(
        User, models.SET_NULL, null=True, blank=True, related_name="suffered", verbose_name=_("customer")
    )
    action = models.CharField(_("action"), max_length=48, db_index=True)
    target = LineField(_("target"), max_length=120, blank=True)
    is_success = models.BooleanField(_("success"), default=True)
    detail = models.JSONField(_("details"), default=dict, blank=True)
    ip = models.GenericIPAddressField(_("IP address"), null=True, blank=True)

    objects = OperationLogQuerySet.as_manager()

    class Meta:
        verbose_name = _("activity log entry")
        verbose_name_plural = _("activity log")
        ordering = ["-pk"]

    def __str__(self) -> str:
        return f"{self.action_text} {self.target}"

    @property
    def action_text(self) -> str:
        """What people call the action; one that an older version wrote stands as it is."""
        return str(wordlist.ACTIONS.get(self.action, self.action))

    def save(self, *args: Any, **kwargs: Any) -> None:
        if self.pk is not None:
            raise TypeError("the activity log is append-only")
        super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("the activity log is append-only")


class ChannelQuerySet(models.QuerySet["Channel"]):
    """Ways to reach people, by who may see them."""

    def visible_to(self, user: Any) -> Self:
        """Everybody only their own: where a person's messages go concerns no admin."""
        return self.filter(user=user) if user.is_authenticated else self.none()


class Channel(models.Model):
    """A way besides e-mail by which a person wants to be told; they add and remove it themselves.

    `address` is a secret: the service's URL with its keys (for apprise), or for SMS the phone number. Pages show `label`.
    """

    class Kind(models.TextChoices):
        PUSH = "push", _("push message")
        SMS = "sms", _("text message")

    user = models.ForeignKey(User, models.CASCADE, related_name="channels", verbose_name=_("user"))
    kind = models.CharField(_("kind"), max_length=8, choices=Kind)
    label = LineField(_("channel"), max_length=60, help_text=_("The service and the end of its key."))
    address = EncryptedTextField(editable=False)
    # Finds a double without the address being readable.
    address_hash = models.CharField(max_length=64, editable=False)
    # A phone number is used once its owner has typed the code that was sent to it: the code's keyed hash, and what is left of it.
    confirmed_at = models.DateTimeField(_("confirmed"), null=True, blank=True)
    code_hash = models.CharField(max_length=64, blank=True, editable=False)
    code_ends_at = models.DateTimeField(null=True, blank=True, editable=False)
    code_tries = models.PositiveIntegerField(default=0, editable=False)
    created_at = models.DateTimeField(_("created"), default=timezone.now)

    objects = ChannelQuerySet.as_manager()

    class Meta:
        verbose_name = _("channel")
        verbose_name_plural = _("channels")
        ordering = ["pk"]
        constraints = [models.UniqueConstraint(name="channel_once", fields=["user", "address_hash"])]

    def __str__(self) -> str:
        return self.label


class NoticeQuerySet(OwnedQuerySet["Notice"]):
    """Notices by who may see them and by what is to be done about them."""

    def due(self, now: Any) -> Self:
        """Those that wait to be sent and may be by now, the longest waiting first; read from one index."""
        return self.filter(state=Notice.State.WAITING, send_after__lte=now).order_by("send_after", "pk")


class Notice(models.Model):
    """One message to one person by one channel; the row is the queue.

    `key` tells what it is about ("rental-7-r12-rental_ending-3"): whatever doubles or restarts, a person gets one
    notice of a key by each channel. `state` moves by conditional UPDATEs only: waiting → sending → sent, or back to waiting
    with a later `send_after`, or failed. `handed_at` is written right before a message leaves; where a worker dies after that,
    nobody knows whether it arrived, and it is not sent again by itself (`accounts.services.notices`).
    """

    class State(models.TextChoices):
        WAITING = "waiting", _("waiting")
        SENDING = "sending", _("being sent")
        SENT = "sent", _("sent")
        FAILED = "failed", _("failed")
        DROPPED = "dropped", _("not sent")

    class By(models.TextChoices):
        EMAIL = "email", _("e-mail")
        PUSH = "push", _("push message")
        SMS = "sms", _("text message")

    user = models.ForeignKey(User, models.CASCADE, related_name="notices", verbose_name=_("user"))
    kind = models.CharField(_("kind"), max_length=32)
    key = models.CharField(_("about"), max_length=120)
    channel = models.CharField(_("channel"), max_length=8, choices=By, default=By.EMAIL)
    # Which of their channels; "" for e-mail.
    target = models.CharField(max_length=20, blank=True)
    # The e-mail address as it was when the notice was made; blanked once the notice has ended.
    address = EncryptedTextField(blank=True, editable=False)
    context = models.JSONField(default=dict, blank=True, encoder=DjangoJSONEncoder)
    language = models.CharField(_("language"), max_length=7)
    state = models.CharField(_("state"), max_length=8, choices=State, default=State.WAITING)
    tries = models.PositiveIntegerField(_("tries"), default=0)
    send_after = models.DateTimeField(_("not before"), default=timezone.now)
    worker = models.CharField(max_length=120, blank=True, editable=False)
    heartbeat_at = models.DateTimeField(null=True, blank=True, editable=False)
    handed_at = models.DateTimeField(_("handed over"), null=True, blank=True)
    sent_at = models.DateTimeField(_("sent"), null=True, blank=True)
    error = models.CharField(_("reason"), max_length=400, blank=True)
    created_at = models.DateTimeField(_("created"), default=timezone.now, db_index=True)

    objects = NoticeQuerySet.as_manager()

    class Meta:
        verbose_name = _("notice")
        verbose_name_plural = _("notices")
        ordering = ["-pk"]
        constraints = [
            models.UniqueConstraint(name="notice_once", fields=["user", "key", "channel", "target"])
        ]
        indexes = [models.Index(fields=["state", "send_after"])]

    def __str__(self) -> str:
        return f"{self.kind_text} · {self.get_channel_display()}"

    @property
    def kind_text(self) -> str:
        """What people call its kind."""
        kind = wordlist.NOTICES.get(self.kind)
        return str(kind.name if kind else self.kind)


class PutOffQuerySet(models.QuerySet["PutOff"]):
    """What sweeps put off, by who may see it."""

    def visible_to(self, user: Any) -> Self:
        """Operators only."""
        return self.all() if user.is_authenticated and user.is_staff else self.none()


class PutOff(Retried):
    """A row for which the work of a sweep raised: it is left out until `try_after` (`accounts.sweeps`).

    `work` names what was to be done, `row` is the row's primary key, `exception` the kind of what was raised, `since` when it was
    for the first time. It goes when the work is done.
    """

    work = models.CharField(_("work"), max_length=40)
    row = models.BigIntegerField(_("number of the row"))
    exception = models.CharField(_("kind of error in the log"), max_length=80, blank=True)
    since = models.DateTimeField(_("since"), default=timezone.now)

    objects = PutOffQuerySet.as_manager()

    class Meta:
        verbose_name = _("work put off")
        verbose_name_plural = _("work put off")
        ordering = ["since", "pk"]
        constraints = [models.UniqueConstraint(name="put_off_once", fields=["work", "row"])]

    def __str__(self) -> str:
        return f"{self.title}: {self.name}"

    @property
    def title(self) -> str:
        """What people call the work; one that the panel has no more stands as it is."""
        return str(WORKS[self.work].title) if self.work in WORKS else self.work

    @cached_property
    def whose(self) -> str | None:
        """The name of whom it is about, None where the row is gone. For lists `accounts.sweeps.name_rows` reads them together."""
        if (work := WORKS.get(self.work)) is None:
            return None
        rows = work.model._default_manager.filter(pk=self.row)
        return rows.values_list(work.whose, flat=True).first()

    @property
    def name(self) -> str:
        """What the row is called among others of the same work."""
        return self.whose or f"#{self.row}"


# Django looks for a room's tables here.
from accounts.access.models import ApiToken, KeptAnswer, SignUpCode  # noqa: E402, F401
from accounts.alerts.models import Alert, AlertRule  # noqa: E402, F401
from accounts.alerts.route_models import AlertDelivery, AlertRoute, AlertTelling  # noqa: E402, F401
from accounts.brand.models import BrandPicture, BrandSettings  # noqa: E402, F401
