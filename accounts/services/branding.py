"""Changing the brand: who may, what is written down of it."""

from datetime import timedelta
from typing import Any

from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from accounts.brand import forget_brand
from accounts.brand.models import ONLY_ROW, BrandPicture, BrandSettings
from accounts.models import User
from accounts.services.activity import log_operation
from accounts.services.people import NotAllowed

# Of these the log says that they changed, not how.
LONG = {"terms_text", "terms_text_en", "privacy_text", "privacy_text_en"}
# So long an uploaded picture stays that nothing names.
KEPT = timedelta(days=1)


@transaction.atomic
def change_brand(*, by: User | None, **values: Any) -> BrandSettings:
    """Write the fields of the brand that are given; `by` None is the system. Raises `NotAllowed` for all but super admins."""
    if by is not None and not (by.is_superuser and by.is_active):
        raise NotAllowed(_("Only a super admin changes the brand."))
    BrandSettings.objects.get_or_create(pk=ONLY_ROW)
    row = BrandSettings.objects.select_for_update().get(pk=ONLY_ROW)
    changes = {}
    for name, value in values.items():
        before = getattr(row, name)
        if before != value:
            setattr(row, name, value)
            changes[name] = "" if name in LONG else [_shown(before), _shown(value)]
    if changes:
        row.changed_at = timezone.now()
        row.save()
        _forget_pictures(row)
        log_operation(by=by, action="brand.changed", target=row, changes=changes)
        forget_brand()
        transaction.on_commit(forget_brand)
    return row


def _forget_pictures(row: BrandSettings) -> None:
    """Delete those that nothing names; not at once, since a form that is open may still hold one."""
    named = {picture for picture in (row.logo_id, row.icon_id, row.code_id) if picture}
    old = BrandPicture.objects.filter(created_at__lt=timezone.now() - KEPT)
    old.exclude(pk__in=named).delete()


def _shown(value: Any) -> str:
    return "" if value is None else str(value)
