"""All mail leaves through here, and never more than `LIMIT` in any `WINDOW` to one address, with as much again for its owner's own wish.
Of those, strangers of one network may ask for `LIMIT_OF_NETWORK`, so that none uses up what the owner may need.

The limit is a sorted set in Redis for each address, and one for each network that asks for mail to it: one member for each message, scored with the moment from which on it no
longer counts. A message counts from before it is handed over until `WINDOW` after the mail server has taken it, so the limit
holds for the moments of delivery, whatever the mail server's pace. One script counts and takes the place, so no two senders
ever both take the last one.
"""

import logging
import math
import secrets
import smtplib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.core.mail import EmailMessage, get_connection
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from derpmgmt.lib.crypto import keyed_hash
from derpmgmt.lib.refusals import NotSent, Refusal

log = logging.getLogger(__name__)

LIMIT = 5
# Of these places the system's own mail leaves one free, so that a code always finds one however much else is waiting.
KEPT_FOR_CODES = 1
# Of these places mail that is asked for from one network may take so many.
LIMIT_OF_NETWORK = 3
WINDOW = timedelta(minutes=10)
# No hand-over takes longer; after so long a place whose sender died counts as taken at that moment.
LONGEST_HANDOVER = timedelta(minutes=2)
# How long the system's mail waits when Redis is away and nobody can count.
WAIT_FOR_REDIS = timedelta(seconds=30)

# What people wait for is handed over in the web server's own threads: in so few of them at once that pages have the others, ...
MOST_ASKED = 3
# ... with so long for each answer of the mail server, ...
ASKED_SECONDS = 5.0
# ... and not at all for a while after it let somebody wait in vain for longer than a moment.
REST_SECONDS = 30.0
MOMENT_SECONDS = 2.0

_turns = threading.BoundedSemaphore(MOST_ASKED)
_rests_until = 0.0

# KEYS the sets; ARGV: now, until when a place is held, the place's name, the limit of each set. All times in milliseconds.
# Returns 0 when a place is taken in every set, else for how many milliseconds none will be free in one of them.
_TAKE = """
local wait = 0
for number, key in ipairs(KEYS) do
  redis.call('ZREMRANGEBYSCORE', key, '-inf', ARGV[1])
  local excess = redis.call('ZCARD', key) - tonumber(ARGV[3 + number])
  if excess >= 0 then
    local freed = redis.call('ZRANGE', key, excess, excess, 'WITHSCORES')
    wait = math.max(wait, 1, math.ceil(tonumber(freed[2]) - tonumber(ARGV[1])))
  end
end
if wait > 0 then
  return wait
end
for _, key in ipairs(KEYS) do
  redis.call('ZADD', key, ARGV[2], ARGV[3])
  redis.call('PEXPIREAT', key, math.ceil(tonumber(ARGV[2])))
end
return 0
"""


class _Place(NamedTuple):
    """A place under the limits: the sets in which it is taken, and its name there."""

    keys: tuple[str, ...]
    name: str


class MailFailed(NotSent):
    """The mail server did not take a message. `reason` is for operators; the log has it too."""


class MailLimited(Refusal):
    """So many messages went to this address that the next one has to wait for `wait_seconds`."""

    code = "mail_limited"

    def __init__(self, wait_seconds: int) -> None:
        super().__init__(wait_seconds=wait_seconds)
        self.wait_seconds = wait_seconds

    def __str__(self) -> str:
        text = ngettext(
            "This address has had its mails; wait %(count)d second.",
            "This address has had its mails; wait %(count)d seconds.",
            self.wait_seconds,
        )
        return text % {"count": self.wait_seconds}


def deliver(
    message: EmailMessage,
    *,
    is_asked: bool,
    is_known: bool = False,
    network: str = "",
    before_handing: Callable[[], None] | None = None,
) -> None:
    """Send one finished message to its one address; every mail of the panel passes here.

    `is_asked` says that a person waits for it (a code): while Redis is away such a message goes uncounted, since without its code
    they could not sign in, and any other waits; and that it is given up soon, at once where too many others wait or the mail server
    lately did not answer. `is_known` says that the address's owner asks from a browser in which they have signed in before: such mail
    counts apart, so that strangers who ask for mail to their address use up none of theirs. `network` is where anybody else asks from
    (`address.wide_network`); "" where it is no visitor of the pages. `before_handing` is called when the mail
    server has let us in, right before it gets the message. Raises `MailLimited`, `MailFailed`, and what `before_handing` raises;
    then nothing was sent.
    """
    with _turn() if is_asked else nullcontext():
        _deliver(message, is_asked, is_known, network, before_handing)


@contextmanager
def _turn() -> Iterator[None]:
    """One of the few turns for mail that people wait for, if the mail server can be expected to answer. Raises `MailFailed`."""
    global _rests_until
    began = time.monotonic()
    if began < _rests_until:
        raise _not_now("the mail server did not answer a moment ago")
    if not _turns.acquire(blocking=False):
        raise _not_now("too many mails are being handed over at this moment")
    try:
        yield
    except MailFailed:
        if time.monotonic() > began + MOMENT_SECONDS:
            _rests_until = time.monotonic() + REST_SECONDS
        raise
    finally:
        _turns.release()


def _not_now(reason: str) -> MailFailed:
    log.warning("mail was not sent: %s", reason)
    return MailFailed(reason)


def _deliver(
    message: EmailMessage,
    is_asked: bool,
    is_known: bool,
    network: str,
    before_handing: Callable[[], None] | None,
) -> None:
    place = _take_place(_limits(message.to[0], is_asked, is_known, network), is_asked)
    connection = get_connection()
    if is_asked and getattr(connection, "timeout", None):
        connection.timeout = ASKED_SECONDS  # type: ignore[attr-defined]
    try:
        try:
            connection.open()
        except (OSError, smtplib.SMTPException) as error:
            _free(place)
            raise _failure(error) from error
        if before_handing is not None:
            try:
                before_handing()
            except BaseException:
                _free(place)
                raise
        _hand_over(connection, message, place)
    finally:
        try:
            connection.close()
        except (OSError, smtplib.SMTPException) as error:
            # It has been said already whether the message was taken.
            log.info("the mail server did not say goodbye: %s", error)


def _hand_over(connection: object, message: EmailMessage, place: _Place | None) -> None:
    try:
        connection.send_messages([message])  # type: ignore[attr-defined]
    except smtplib.SMTPServerDisconnected as error:
        raise _failure(error, is_in_doubt=True) from error
    except smtplib.SMTPException as error:
        _free(place)
        raise _failure(error) from error
    except OSError as error:
        raise _failure(error, is_in_doubt=True) from error
    _hold(place, timezone.now() + WINDOW)


def _failure(error: Exception, *, is_in_doubt: bool = False) -> MailFailed:
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    is_final = False
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        code, words = next(iter(error.recipients.values()))
        reason, is_final = _words(code, words), code >= 500
    elif isinstance(error, smtplib.SMTPResponseException):
        reason = _words(error.smtp_code, error.smtp_error)
        # Refused before a message was offered, it is we who are wrong (password, sender), not this message.
        is_final = isinstance(error, smtplib.SMTPDataError) and error.smtp_code >= 500
    log.error("mail was not sent: %s", reason)
    return MailFailed(reason[:300], is_final=is_final, is_in_doubt=is_in_doubt)


def _words(code: int, words: bytes | str) -> str:
    text = words.decode(errors="replace") if isinstance(words, bytes) else words
    return f"{code} {text}"


def _limits(address: str, is_asked: bool, is_known: bool, network: str) -> dict[str, int]:
    """The sets in which a message takes a place, and how many have one in each."""
    name = keyed_hash("mail", address.strip().lower())[:32]
    if is_known:
        return {f"mail:known:{name}": LIMIT}
    limits = {f"mail:{name}": LIMIT if is_asked else LIMIT - KEPT_FOR_CODES}
    if network:
        limits[f"mail:{name}:{keyed_hash('mail', network)[:32]}"] = LIMIT_OF_NETWORK
    return limits


def _milliseconds(moment: datetime) -> int:
    return math.ceil(moment.timestamp() * 1000)


def _take_place(limits: dict[str, int], is_asked: bool) -> _Place | None:
    """A place under all limits, to be held or freed; None when nobody can count but the message may go. Raises `MailLimited`."""
    from redis import RedisError  # here: most processes that know of mail send none

    from derpmgmt.lib import bells

    now, name = timezone.now(), secrets.token_hex(8)
    until = now + LONGEST_HANDOVER + WINDOW
    try:
        times = str(_milliseconds(now)), str(_milliseconds(until))
        wait: Any = bells.client().eval(_TAKE, len(limits), *limits, *times, name, *map(str, limits.values()))
    except RedisError as error:
        log.warning("mail is not counted, Redis is away: %s", error)
        if is_asked:
            return None
        raise MailLimited(int(WAIT_FOR_REDIS.total_seconds())) from error
    if wait:
        raise MailLimited(math.ceil(wait / 1000))
    return _Place(tuple(limits), name)


def _hold(place: _Place | None, until: datetime) -> None:
    if place is not None:
        _change(place, lambda client, key: client.zadd(key, {place.name: _milliseconds(until)}, xx=True))


def _free(place: _Place | None) -> None:
    if place is not None:
        _change(place, lambda client, key: client.zrem(key, place.name))


def _change(place: _Place, act: Callable[[Any, str], object]) -> None:
    from redis import RedisError

    from derpmgmt.lib import bells

    try:
        for key in place.keys:
            act(bells.client(), key)
    except RedisError as error:
        # The place stays taken for longer than needed, which harms nobody.
        log.warning("a mail's place was not given back, Redis is away: %s", error)


def send_test_mail(address: str, *, sender: str) -> None:
    """Send a few words from `sender` to `address`, to see whether the settings are right. Raises `MailFailed`, `MailLimited`."""
    text = _("This is a test by an operator of the panel. Mail works.")
    message = EmailMessage(_("Test of the mail settings"), text, sender, [address])
    deliver(message, is_asked=True)
