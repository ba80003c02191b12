"""The demo's mailbox: a page with the mail that the demo did not send. Outside the demo it does not exist."""

import email
import email.policy
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import parsedate_to_datetime
from pathlib import Path

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache

from derpmgmt import demo

# How Django's file backend ends each message.
SEPARATOR = b"\n" + b"-" * 79 + b"\n"
SHOWN = 50


@dataclass(frozen=True)
class Mail:
    """One message, as the page shows it."""

    at: datetime
    to: str
    subject: str
    text: str


def _read(raw: bytes) -> Mail:
    message = email.message_from_bytes(raw, _class=EmailMessage, policy=email.policy.default)
    body = message.get_body(preferencelist=("plain",))
    at = parsedate_to_datetime(message["Date"])
    return Mail(
        at=at
        if at.tzinfo
        else at.replace(tzinfo=UTC),  # "-0000", as Django writes, reads as a time without a zone
        to=str(message["To"]),
        subject=str(message["Subject"]),
        text=str(body.get_content()).strip() if body else "",
    )


def read_mails(folder: Path) -> list[Mail]:
    """The newest messages in the files that Django's file backend wrote into `folder`, the newest first."""
    files = sorted(folder.glob("*.log"), reverse=True)[:SHOWN]
    mails = [_read(raw) for file in files for raw in file.read_bytes().split(SEPARATOR) if raw.strip()]
    return sorted(mails, key=lambda mail: mail.at, reverse=True)[:SHOWN]


@never_cache
def mailbox(request: HttpRequest) -> HttpResponse:
    """The page; 404 unless this is the demo."""
    if not settings.IS_DEMO:
        raise Http404
    mails = read_mails(Path(settings.EMAIL_FILE_PATH))
    return render(request, "mailbox.html", {"mails": mails, "staff_codes": demo.staff_codes()})
