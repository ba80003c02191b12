"""When, and from where, somebody was last seen in a session: written at most once in `SEEN_EVERY`; allauth would write with every request."""

import logging
import time
from collections.abc import Callable
from datetime import timedelta

from allauth.usersessions.models import UserSession
from django.contrib.auth import SESSION_KEY
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse
from django.utils import timezone

from derpmgmt.lib.address import client_ip
from derpmgmt.lib.kept import Kept

log = logging.getLogger(__name__)

# The row is at most twice as old as this.
SEEN_EVERY = timedelta(minutes=5)
# By session, when (`time.time`) this process wrote it, or found it written by another.
_written: Kept[float] = Kept(10_000)


class SeenMiddleware:
    """Notes that a session was used, of those requests that asked who is signed in; a page never fails for it."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self._get_response(request)
        session = request.session
        if session.accessed and session.session_key and SESSION_KEY in session:
            now, before = time.time(), _written.find(session.session_key)
            # Whichever way the clock was set meanwhile.
            if before is None or abs(now - before) >= SEEN_EVERY.total_seconds():
                _note(request, session.session_key)
                _written.keep(session.session_key, now)
        return response


def _note(request: HttpRequest, key: str) -> None:
    now = timezone.now()
    browser = request.headers.get("user-agent", "")[: UserSession._meta.get_field("user_agent").max_length]
    try:
        UserSession.objects.filter(session_key=key, last_seen_at__lt=now - SEEN_EVERY).update(
            last_seen_at=now, ip=client_ip(request), user_agent=browser
        )
    except DatabaseError:
        log.warning("when a session was last seen could not be written", exc_info=True)
