"""People, and what they did."""

from typing import Any, Self

from django.contrib.auth.models import AbstractUser, UserManager
from django.core.validators import RegexValidator
from django.db import models
from django.utils.translation import gettext_lazy as _

# A user name is shown to others and stands beside the e-mail address, so it must not look like one.
USERNAME_VALIDATORS = [
    RegexValidator(r"^[\w.-]{2,30}\Z", _("Use 2 to 30 letters, digits, hyphens, dots or underscores."))
]


class UserQuerySet(models.QuerySet["User"]):
    """Accounts by who may see them."""

    def visible_to(self, user: Any) -> Self:
        """Admins see every account, anybody else only his own."""
        if not user.is_authenticated:
            return self.none()
        return self.all() if user.is_staff else self.filter(pk=user.pk)


class PanelUserManager(UserManager.from_queryset(UserQuerySet)):  # type: ignore[misc]
    """Django's manager with `UserQuerySet`; `createsuperuser` makes a super admin."""

    def create_superuser(
        self, username: str, email: str | None = None, password: str | None = None, **extra: Any
    ) -> Any:
        extra["role"] = User.Role.SUPERADMIN
        extra.pop("is_staff", None)
        extra.pop("is_superuser", None)
        return self._create_user(username, email, password, **extra)


class User(AbstractUser):
    """An account: the e-mail address is the login, the user name its public name.

    `role` is the one truth about rights: `is_staff` and `is_superuser` follow it at every save. `banned_at` and `closed_at`
    are the one truth about access: `is_active` follows them, so a banned or closed account can neither sign in nor go on
    with an open session. Address and user name are kept in lower case, so both are unique whatever the case.
    """

    class Role(models.TextChoices):
        USER = "user", _("customer")
        DISTRIBUTOR = "distributor", _("distributor")
        ADMIN = "admin", _("admin")
        SUPERADMIN = "superadmin", _("super admin")

    email = models.EmailField(_("e-mail address"), unique=True)
    role = models.CharField(_("role"), max_length=12, choices=Role, default=Role.USER, db_index=True)
    language = models.CharField(_("language"), max_length=7, default="zh-hans")
    banned_at = models.DateTimeField(_("banned"), null=True, blank=True)
    closed_at = models.DateTimeField(_("closed"), null=True, blank=True)

    REQUIRED_FIELDS = ["email"]

    objects = PanelUserManager()  # type: ignore[misc]

    class Meta(AbstractUser.Meta):
        verbose_name = _("user")  # type: ignore[assignment]
        verbose_name_plural = _("users")  # type: ignore[assignment]
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
                    models.Q(is_active=True, banned_at=None, closed_at=None)
                    | models.Q(
                        models.Q(banned_at__isnull=False) | models.Q(closed_at__isnull=False), is_active=False
                    )
                ),
            ),
        ]

    def save(self, *args: Any, **kwargs: Any) -> None:
        self.email = self.email.lower()
        self.username = self.username.lower()
        self.is_staff = self.role in {self.Role.ADMIN, self.Role.SUPERADMIN}
        self.is_superuser = self.role == self.Role.SUPERADMIN
        self.is_active = self.banned_at is None and self.closed_at is None
        if (fields := kwargs.get("update_fields")) is not None:
            followers = {
                "role": {"is_staff", "is_superuser"},
                "banned_at": {"is_active"},
                "closed_at": {"is_active"},
            }
            kwargs["update_fields"] = set(fields).union(*(followers.get(name, set()) for name in fields))
        super().save(*args, **kwargs)

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
        """Admins read all of it, anybody else what he did himself or what was done to his account."""
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
    target = models.CharField(_("target"), max_length=120, blank=True)
    is_success = models.BooleanField(_("success"), default=True)
    detail = models.JSONField(_("details"), default=dict, blank=True)
    ip = models.GenericIPAddressField(_("IP address"), null=True, blank=True)

    objects = OperationLogQuerySet.as_manager()

    class Meta:
        verbose_name = _("activity log entry")
        verbose_name_plural = _("activity log")
        ordering = ["-pk"]

    def __str__(self) -> str:
        return f"{self.action} {self.target}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        if self.pk is not None:
            raise TypeError("the activity log is append-only")
        super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("the activity log is append-only")
