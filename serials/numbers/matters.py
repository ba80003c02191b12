"""What of serial numbers needs a person."""

from collections.abc import Iterator
from datetime import datetime

from django.db.models import Count, Q, QuerySet
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from derpmgmt.lib.matters import INFORMATION, WARNING, Cause, Matter
from derpmgmt.lib.prepared import Prepared
from serials.numbers.models import SerialBatch, SerialNumber


def _unpaid(count: int) -> str:
    text = ngettext("%(count)d batch is not paid for", "%(count)d batches are not paid for", count)
    return text % {"count": count}


def _unpaid_batches() -> QuerySet[SerialBatch]:
    used = Count("serials", filter=Q(serials__status=SerialNumber.Status.USED))
    return SerialBatch.objects.filter(paid_at=None).annotate(used=used).order_by("created_at")


_UNPAID = Prepared(_unpaid_batches)


def matters(now: datetime) -> Iterator[Matter]:
    """Answer to "matters": batches that nobody has paid for, those in use as warnings."""
    url = reverse("admin:serials_serialbatch_changelist") + "?paid_at__isempty=1"
    cause = Cause("batch_unpaid", _unpaid, url, is_each_told=True)
    for batch in _UNPAID.read():
        text = ngettext(
            "%(count)d serial number, %(used)d of them used",
            "%(count)d serial numbers, %(used)d of them used",
            batch.count,
        )
        yield Matter(
            WARNING if batch.used else INFORMATION,
            _("Batch %(batch)s is not paid for") % {"batch": batch},
            text % {"count": batch.count, "used": batch.used},
            url,
            f"batch_unpaid:{batch.pk}",
            batch.created_at,
            str(batch),
            cause,
        )
