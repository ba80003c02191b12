"""The serial number that a visitor has typed, on the pages where they sign up."""

from django import template
from django.template import Context

from serials.numbers.keeping import KEPT
from serials.numbers.models import SerialNumber

register = template.Library()


@register.simple_tag(takes_context=True)
def kept_serial(context: Context) -> SerialNumber | None:
    """The serial number that this session keeps until its owner has an account, as long as it can be redeemed; None for none."""
    request = context.get("request")
    pk = request.session.get(KEPT) if request else None
    if not pk:
        return None
    serial = SerialNumber.objects.select_related("batch").filter(pk=pk).first()
    return serial if serial and serial.status == SerialNumber.Status.UNUSED else None
