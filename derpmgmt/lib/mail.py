"""All mail leaves through here."""

import logging

from django.conf import settings
from django.core.mail import EmailMessage, EmailMultiAlternatives
from django.template.loader import render_to_string
from django.utils import translation

log = logging.getLogger(__name__)


def send_mail(*, to: str, template: str, context: dict[str, object], language: str) -> None:
    """Send `templates/<template>_subject.txt`, `_message.txt` and `_message.html` to one address, in `language`.

    Raises what the mail backend raises (`OSError`, `smtplib.SMTPException`) when the server does not take it.
    """
    with translation.override(language):
        subject = " ".join(render_to_string(f"{template}_subject.txt", context).split())
        text = render_to_string(f"{template}_message.txt", context)
        html = render_to_string(f"{template}_message.html", context)
    message = EmailMultiAlternatives(subject, text, settings.DEFAULT_FROM_EMAIL, [to])
    message.attach_alternative(html, "text/html")
    deliver(message)


def deliver(message: EmailMessage) -> None:
    """Send one finished message; every mail of the panel passes here. Raises what the mail backend raises."""
    message.send()
