"""All mail leaves through here."""

import logging
import smtplib

from django.conf import settings
from django.core.mail import EmailMessage, EmailMultiAlternatives
from django.template.loader import render_to_string
from django.utils import translation

log = logging.getLogger(__name__)


class MailFailed(Exception):
    """The mail server did not take a message; the reason is in the log."""


def send_mail(*, to: str, template: str, context: dict[str, object], language: str) -> None:
    """Send `templates/<template>_subject.txt`, `_message.txt` and `_message.html` to one address, in `language`.

    Raises `MailFailed`.
    """
    with translation.override(language):
        subject = " ".join(render_to_string(f"{template}_subject.txt", context).split())
        text = render_to_string(f"{template}_message.txt", context)
        html = render_to_string(f"{template}_message.html", context)
    message = EmailMultiAlternatives(subject, text, settings.DEFAULT_FROM_EMAIL, [to])
    message.attach_alternative(html, "text/html")
    deliver(message)


def deliver(message: EmailMessage) -> None:
    """Send one finished message; every mail of the panel passes here. Raises `MailFailed`."""
    try:
        message.send()
    except (OSError, smtplib.SMTPException) as error:
        log.error("mail was not sent: %s: %s", type(error).__name__, error)
        raise MailFailed from error
