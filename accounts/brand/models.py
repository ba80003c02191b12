"""What customers see of whoever runs the panel: one row, and the pictures it names."""

from typing import Any, Self

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from derpmgmt.lib.lines import LineField

# There is one panel, so there is one row.
ONLY_ROW = 1


class _OperatorsQuerySet(models.QuerySet[Any]):
    def visible_to(self, user: Any) -> Self:
        """Operators only: everybody else sees what the pages make of it."""
        return self.all() if user.is_authenticated and user.is_staff else self.none()


class BrandPicture(models.Model):
    """A picture as it is served, found by its own hash, so that its address never shows another one.

    It lies in the database, so that a copy of that holds all of the panel. Those that nothing names go some time after they came.
    """

    digest = models.CharField(max_length=32, primary_key=True)
    content_type = models.CharField(max_length=20)
    width = models.PositiveIntegerField()
    height = models.PositiveIntegerField()
    data = models.BinaryField()
    created_at = models.DateTimeField(default=timezone.now, db_index=True)

    objects = _OperatorsQuerySet.as_manager()

    def __str__(self) -> str:
        return f"{self.digest} {self.width} × {self.height}"


def _picture(name: Any) -> Any:
    return models.ForeignKey(
        BrandPicture,
        models.PROTECT,
        null=True,
        blank=True,
        related_name="+",
        verbose_name=name,
    )


class BrandSettings(models.Model):
    """Name, look, contacts and papers. What is empty is shown nowhere; without a name the panel calls itself derpmgmt."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=ONLY_ROW, editable=False)
    name = LineField(_("name"), max_length=40, blank=True)
    slogan = LineField(_("slogan"), max_length=80, blank=True)
    slogan_en = LineField(_("slogan in English"), max_length=80, blank=True)
    accent = models.CharField(_("accent colour"), max_length=7, blank=True)
    logo = _picture(_("logo"))
    icon = _picture(_("icon of the browser's tab"))
    wechat = LineField(_("WeChat ID"), max_length=40, blank=True)
    qq = LineField(_("QQ number"), max_length=12, blank=True)
    email = models.EmailField(_("e-mail address"), blank=True)
    code = _picture(_("picture of a code"))
    code_text = LineField(_("words under the code"), max_length=40, blank=True)
    buy_url = models.URLField(_("where to buy"), blank=True)
    icp = LineField(_("ICP filing number"), max_length=40, blank=True)
    police = LineField(_("police filing number"), max_length=40, blank=True)
    footer = LineField(_("line in the footer"), max_length=120, blank=True)
    terms_url = models.URLField(_("terms of service: address"), blank=True)
    terms_text = models.TextField(_("terms of service: text"), blank=True)
    terms_text_en = models.TextField(_("terms of service: text in English"), blank=True)
    privacy_url = models.URLField(_("privacy policy: address"), blank=True)
    privacy_text = models.TextField(_("privacy policy: text"), blank=True)
    privacy_text_en = models.TextField(_("privacy policy: text in English"), blank=True)
    changed_at = models.DateTimeField(_("changed"), default=timezone.now, editable=False)

    objects = _OperatorsQuerySet.as_manager()

    class Meta:
        verbose_name = _("brand")
        verbose_name_plural = _("brand")
        constraints = [models.CheckConstraint(name="brand_one_row", condition=models.Q(pk=ONLY_ROW))]

    def __str__(self) -> str:
        return self.name or "derpmgmt"
