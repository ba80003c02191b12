"""Changing the brand: who may, what is written down of it."""

from typing import Any

from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from accounts.brand import forget_brand
from accounts.brand.models import ONLY_ROW, BrandSettings
from accounts.models import User
from accounts.services.activity import log_operation
from accounts.services.people import NotAllowed

# Of these the log says that they changed, not how.
LONG = {"terms_text", "privacy_text"}


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
        log_operation(by=by, action="brand.changed", target=row, changes=changes)
        forget_brand()
        transaction.on_commit(forget_brand)
    return row


def _shown(value: Any) -> str:
    return "" if value is None else str(value)
