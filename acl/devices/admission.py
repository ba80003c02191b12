"""The hot path of admission: `POST /admission/<relay>` is answered here, before Django makes a request of it.

The gate of a server passes on what its relays ask (tailcfg.DERPAdmitClientRequest: `{"NodePublic": "nodekey:…", "Source": "…"}`)
and is known by its secret. Known devices cost one query by primary keys and unique indexes, or a part of one. It reads the rows themselves; only the
gates' secrets come from a copy, which is a second old at most. Only an answer of 200 with `{"Allow":true}` lets anybody in; 5xx has the gate answer from
its list.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import re
import threading
import time
from collections.abc import Collection, Iterable
from http.client import responses
from typing import TYPE_CHECKING, Any, NamedTuple

from django.db import Error as DatabaseError
from django.db import InterfaceError, OperationalError, close_old_connections, connection
from django.utils import timezone

from acl.devices import admission_writer
from acl.devices.models import Admission, Device, DevicePolicy
from acl.devices.networks import network_of
from acl.devices.services.enrolment import Decision, knock
from acl.devices.services.pace import Asked
from acl.devices.services.places import span_may_open, window_until
from acl.devices.services.verify_url import ask_sources
from containers.models import Gate
from derpmgmt.lib.crypto import keyed_hash
from serials.rentals.models import Rental

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

log = logging.getLogger(__name__)

PREFIX = "/admission/"
_PATH = re.compile(rf"{PREFIX}([1-9][0-9]{{0,17}})")
_NODE_KEY = re.compile(r"nodekey:([0-9a-f]{64})")
# A question has about 120 bytes; derper knows no larger.
MOST_BYTES = 4096

# In a minute and a process: how often one address may knock at one relay without being let in, or all may together, before no
# more is done about it than to say no; and how often an address may ask at all.
REFUSALS_PER_ADDRESS = 60
REFUSALS_PER_RELAY = 300
QUESTIONS_PER_ADDRESS = 1200
_MOST_COUNTED = 50_000
# Questions that are read by one query.
_MOST_AT_ONCE = 32
# After so many seconds what is kept of the rows is read again.
_KNOWN_SECONDS = 1.0

_ALLOW = b'{"Allow":true}'
_REFUSE = b'{"Allow":false}'

Reason = Admission.Reason

# All that decides about known devices, by a row for each. Times are compared by the database.
_QUERY = """
SELECT relay.id, device.node_key, relay.server_id, relay.rental_id,
       rental.entitled_until > %s, customer.is_active, rental.stopped_at IS NOT NULL,
       device.status, device.source, device.status = 'pending' AND device.trial_until > %s
FROM containers_relay relay
JOIN serials_rental rental ON rental.id = relay.rental_id
JOIN accounts_user customer ON customer.id = rental.user_id
LEFT JOIN acl_device device ON device.rental_id = relay.rental_id AND device.node_key IN ({keys})
WHERE relay.id IN ({relays}) AND relay.live = 1
"""


class _Found(NamedTuple):
    """What the database says about a relay and a device."""

    server: int
    rental: int
    is_entitled: bool
    is_active: bool
    is_stopped: bool
    status: str | None = None
    source: str | None = None
    is_on_trial: bool = False


class AdmissionApplication:
    """A WSGI application (PEP 3333) that answers relays' questions and leaves everything else to the one it is put around.

    It needs none of Django's request, signals and middleware, which would cost as much as all it does itself.
    """

    def __init__(self, application: WSGIApplication) -> None:
        self._application = application

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if not environ.get("PATH_INFO", "").startswith(PREFIX):
            return self._application(environ, start_response)
        status, body = 503, b""
        try:
            close_old_connections()
            status, body = _answer(environ)
        except DatabaseError as error:
            log.warning("admission: the database is away: %s", type(error).__name__)
        except Exception:
            log.exception("admission")
        headers = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
        ]
        start_response(f"{status} {responses[status]}", headers)
        return [body]


def _answer(environ: WSGIEnvironment) -> tuple[int, bytes]:
    match = _PATH.fullmatch(environ["PATH_INFO"])
    if match is None:
        return 404, b""
    if environ["REQUEST_METHOD"] != "POST":
        return 405, b""
    # Whoever has no secret is sent away before their body is read.
    scheme, _space, secret = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    _known.refresh()
    server = _known.servers.get(keyed_hash("gate", secret)) if scheme == "Bearer" else None
    if server is None:
        return 401, b""
    length = environ.get("CONTENT_LENGTH") or "0"
    if not length.isdecimal() or int(length) > MOST_BYTES:
        return 413, b""
    question = _read(environ["wsgi.input"].read(int(length)))
    if question is None:
        return 400, b""
    relay, (node_key, ip) = int(match[1]), question
    if _counts.add(("asked", relay, network_of(ip))) > QUESTIONS_PER_ADDRESS:
        return 429, b""
    found = _reader.find(relay, node_key)
    if found is None:
        return 404, b""
    if found.server != server:
        return 401, b""
    decision = _decide(found, relay, node_key, ip)
    # The moment after the decision, which may have written down itself that the device was seen.
    asked_at = timezone.now()
    admission_writer.record(
        Asked(relay, found.rental, node_key, ip, decision.is_allowed, decision.reason, at=asked_at)
    )
    return 200, (_ALLOW if decision.is_allowed else _REFUSE)


def _read(body: bytes) -> tuple[str, str | None] | None:
    """Node key (64 hex digits) and the client's address, None where it is none; None for what is no question."""
    try:
        question = json.loads(body)
        match = _NODE_KEY.fullmatch(question["NodePublic"])
        source = question.get("Source", "")
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
        return None
    if match is None:
        return None
    try:
        address = ipaddress.ip_address(source)
    except ValueError:
        return match[1], None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return match[1], str(address).partition("%")[0]


class _Question:
    """What one thread wants to know, and what it is told."""

    def __init__(self, relay: int, node_key: str) -> None:
        self.relay = relay
        self.node_key = node_key
        self.found: _Found | None = None
        self.error: Exception | None = None
        # Free when it is answered, or when its thread is to read for all that wait. A lock alone: an Event costs several times it.
        self.turn = threading.Lock()
        self.turn.acquire()
        self.is_leader = False


class _Reader:
    """Reads rows for all threads that ask at the same time by one query.

    Whoever asks while nobody reads, reads at once. What is asked meanwhile waits for them and is then read together: under load
    a question costs a fraction of a query, and each answer still is what the rows said after it was asked.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_reading = False
        self._waiting: list[_Question] = []

    def find(self, relay: int, node_key: str) -> _Found | None:
        """What the rows say; None when there is no such relay. Raises `django.db.Error`."""
        question = _Question(relay, node_key)
        with self._lock:
            self._waiting.append(question)
            question.is_leader = not self._is_reading
            self._is_reading = True
        if not question.is_leader:
            question.turn.acquire()
        if question.is_leader:
            self._read_all()
        if question.error is not None:
            raise question.error
        return question.found

    def _read_all(self) -> None:
        with self._lock:
            batch, self._waiting = self._waiting[:_MOST_AT_ONCE], self._waiting[_MOST_AT_ONCE:]
        try:
            found = _find({(question.relay, question.node_key) for question in batch})
            for question in batch:
                question.found = found.get((question.relay, question.node_key))
        except Exception as error:
            for question in batch:
                question.error = error
        with self._lock:
            self._is_reading = bool(self._waiting)
            if self._waiting:
                self._waiting[0].is_leader = True
                self._waiting[0].turn.release()
        for question in batch:
            if not question.is_leader:
                question.turn.release()


def _find(questions: Collection[tuple[int, str]]) -> dict[tuple[int, str], _Found]:
    """What the rows say about relays and node keys; without those whose relay is gone."""
    at = connection.ops.adapt_datetimefield_value(timezone.now())
    keys, relays = {key for _relay, key in questions}, {relay for relay, _key in questions}
    query = _QUERY.format(keys=", ".join(["%s"] * len(keys)), relays=", ".join(["%s"] * len(relays)))
    values: list[str | int | None] = [at, at, *keys, *relays]
    # Without Django's own question whether the connection still lives, which would double the cost: where it does not, a new
    # one is asked.
    is_old = connection.connection is not None
    connection.health_check_done = True  # type: ignore[attr-defined]
    try:
        rows = _fetch(query, values)
    except (OperationalError, InterfaceError):
        connection.close()
        if not is_old:
            raise
        rows = _fetch(query, values)
    known = {(relay, key): _Found(*rest) for relay, key, *rest in rows}
    without = {relay: _Found(*rest[:5]) for relay, _key, *rest in rows}
    return {
        question: known.get(question) or without[question[0]]
        for question in questions
        if question[0] in without
    }


def _fetch(query: str, values: list[str | int | None]) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(query, values)
        return cursor.fetchall()


def _decide(found: _Found, relay: int, node_key: str, ip: str | None) -> Decision:
    if not found.is_entitled:
        return Decision(False, Reason.ENDED)
    if not found.is_active:
        return Decision(False, Reason.BARRED)
    if found.is_stopped:
        return Decision(False, Reason.USED_UP)
    if found.status == Device.Status.APPROVED and found.source != Device.Source.VERIFY_URL:
        return Decision(True, Reason.APPROVED)
    decision = _ask(found, relay, node_key, ip)
    if not decision.is_allowed:
        _counts.add(("refused", relay, network_of(ip)))
        _counts.add(("refused", relay))
    return decision


def _ask(found: _Found, relay: int, node_key: str, ip: str | None) -> Decision:
    """About a device that its row alone does not let in. While too many knock, no more is done about strangers than to read rows."""
    if found.status == Device.Status.REVOKED:
        return Decision(False, Reason.REVOKED)
    rentals = Rental.objects.select_related("device_policy")
    rental = rentals.annotate(may_open=span_may_open(timezone.now())).get(pk=found.rental)
    policy: DevicePolicy | None = getattr(rental, "device_policy", None)
    if policy is not None and policy.is_open and getattr(rental, "may_open", False):
        return Decision(True, Reason.OPEN)
    is_approved = found.status == Device.Status.APPROVED
    is_flooded = (
        _counts.of(("refused", relay, network_of(ip))) >= REFUSALS_PER_ADDRESS
        or _counts.of(("refused", relay)) >= REFUSALS_PER_RELAY
    )
    if policy is not None and policy.verify_url and (is_approved or not is_flooded):
        decision = ask_sources(rental_pk=found.rental, relay_pk=relay, node_key=node_key, ip=ip)
        if decision is not None:
            return decision
    elif is_approved:
        return Decision(True, Reason.VERIFY_URL)
    is_window_open = window_until(rental, policy) > timezone.now()
    if not is_flooded and (is_window_open or found.is_on_trial):
        return knock(rental_pk=found.rental, relay_pk=relay, node_key=node_key, ip=ip)
    return Decision(False, Reason.UNKNOWN)


class _Counts:
    """How often something happened in this minute, in this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._minute = 0
        self._counts: dict[tuple[object, ...], int] = {}

    def add(self, key: tuple[object, ...]) -> int:
        """Count one more; returns how many there were in this minute."""
        minute = int(time.monotonic() // 60)
        with self._lock:
            if minute != self._minute or len(self._counts) > _MOST_COUNTED:
                self._minute = minute
                self._counts.clear()
            self._counts[key] = count = self._counts.get(key, 0) + 1
        return count

    def of(self, key: tuple[object, ...]) -> int:
        """How many there were lately."""
        return self._counts.get(key, 0)


class _Known:
    """What is the same for many questions, as it was a second ago at most."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read_at = float("-inf")
        # Which server has the secret with this hash.
        self.servers: dict[str, int] = {}

    def refresh(self) -> None:
        """Read it again when a second is over. Raises `django.db.Error` when the database is away."""
        if time.monotonic() - self._read_at < _KNOWN_SECONDS:
            return
        with self._lock:
            if time.monotonic() - self._read_at < _KNOWN_SECONDS:
                return
            self.servers = dict(Gate.objects.values_list("secret_hash", "server_id"))
            self._read_at = time.monotonic()


_counts = _Counts()
_known = _Known()
_reader = _Reader()
