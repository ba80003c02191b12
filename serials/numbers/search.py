"""Serial numbers, found by their code."""

from collections.abc import Iterator
from typing import Any

from django.urls import reverse

from derpmgmt.lib.finding import MOST_FOUND, Found
from serials.numbers import codes
from serials.numbers.models import SerialNumber
from serials.numbers.services.batches import code_hash

_END = 4


def search(text: str, user: Any) -> Iterator[Found]:
    """Answer to "search": the serial number with this code, or those that end in these four characters."""
    code = codes.normalize(text)
    serials = SerialNumber.objects.visible_to(user).select_related("batch", "redemption__rental__user")
    if codes.is_well_typed(code):
        serials = serials.filter(code_hash=code_hash(code))
    elif len(code) == _END:
        serials = serials.filter(code_end=code)
    else:
        return
    for serial in serials.order_by()[:MOST_FOUND]:
        about = [str(serial.batch), serial.get_status_display()]
        if serial.redemption:
            about.append(str(serial.redemption.rental.user))
        url = reverse("admin:serials_serialnumber_change", args=[serial.pk])
        yield Found(str(SerialNumber._meta.verbose_name_plural), serial.masked, " · ".join(about), url)
