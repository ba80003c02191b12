"""What a customer runs themselves and the panel may ask about their devices: their own verify address (Headscale's `/verify`).

The one place that asks; a further source is another function beside `ask_verify_url` that returns an `Answer`. The address may
carry a secret: it stands in no log, error or key of the cache.
"""

import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any

import redis
from django.core.cache import cache
from django.utils.translation import gettext_lazy, gettext_noop

from acl.devices import outbound
from acl.maps import copies
from containers.derp.keys import format_node_key
from derpmgmt.lib.crypto import keyed_hash
from derpmgmt.lib.refusals import Refusal

# The time limits in seconds for all of a question, from the name to the last byte: of a relay's, and of a person's who waits.
ASK_SECONDS = 1.5
CHECK_SECONDS = 5.0
# Verdicts are remembered so long, in seconds. Silence counts for the whole address, so that a dead one is left alone.
_YES_SECONDS, _NO_SECONDS, _SILENT_SECONDS = 60, 10, 10
# An address that took longer than this to answer rests so long: it must not take the turns of the others.
_SLOW_SECONDS, _REST_SECONDS = 0.5, 5
# Questions of relays, and of people, that one process has under way, whatever strangers do: fewer than the threads that serve
# pages and known devices. A question waits so many seconds for its turn.
_AT_ONCE, _CHECKS_AT_ONCE = 4, 1
_TURN_SECONDS = 0.3
# An address from the documentation's range, of which no device can come.
_NOBODYS_IP = "192.0.2.1"

SENTENCES = {
    "not_url": gettext_noop("This is not a web address."),
    "scheme": gettext_noop("The address has to begin with http:// or https://."),
    "too_long": gettext_noop("The address is longer than 300 characters."),
    "credentials": gettext_noop("The address must not contain a user name or a password before its host."),
    "port": gettext_noop("Only the ports 80, 443 and those from 1024 on are asked."),
    "unresolved": gettext_noop("The name in the address cannot be resolved."),
    "internal": gettext_noop("The address leads to an internal network or to this service itself."),
    "no_answer": gettext_noop("Nothing answers at the address in time."),
    "certificate": gettext_noop(
        "No trusted encrypted connection can be made: the certificate must be valid for the address."
    ),
    "redirect": gettext_noop("The address leads on to another one; enter that one."),
    "status": gettext_noop("The address answers with an error."),
    "not_headscale": gettext_noop("What the address answers is not what Headscale's /verify answers."),
    "allows_everybody": gettext_noop(
        "The address lets a key in that no device has: it would let everybody in."
    ),
    "slow": gettext_noop("The address takes too long to answer, and is asked only every few seconds."),
    "busy": gettext_noop("The address is being asked already; try again in a moment."),
}
_SAME = {"not_http": "not_headscale", "too_large": "not_headscale"}


class Verdict(Enum):
    """What a source says about a device; SILENT = nothing that could be relied on."""

    YES = "yes"
    NO = "no"
    SILENT = "silent"


@dataclass(frozen=True)
class Answer:
    """A verdict and, for silence, why: one of `SENTENCES` in English, which pages show translated."""

    verdict: Verdict
    problem: str = ""


class VerifyUrlRefused(Refusal):
    """The address cannot be used; `code` is a key of `SENTENCES`. Never holds the address."""

    field = "verify_url"

    def __init__(self, code: str) -> None:
        code = _SAME.get(code, code)
        super().__init__(gettext_lazy(SENTENCES[code]), code=code)


def ask_verify_url(*, url: str, node_key: str, source_ip: str, timeout: float = ASK_SECONDS) -> Answer:
    """Ask the customer's own address whether the device with `node_key` (hexadecimal), coming from `source_ip`, is theirs.

    Takes `timeout` seconds at most, whatever the far side does, and raises nothing for it. Call outside of transactions.
    """
    deadline = time.monotonic() + timeout
    of_url = "verify:" + keyed_hash("verify-url", url)
    of_question = "verify:" + keyed_hash("verify-question", "\0".join((url, node_key, source_ip)))
    if known := _recall(of_question, of_url):
        return known
    try:
        with _turn(url, _slots):
            # Whoever had the turn before may have found it out.
            if known := _recall(of_question, of_url):
                return known
            return _find_out(url, node_key, source_ip, deadline, of_url, of_question)
    except VerifyUrlRefused as error:
        return Answer(Verdict.SILENT, SENTENCES[error.code])


def check_verify_url(url: str, *, timeout: float = CHECK_SECONDS) -> None:
    """Whether an address that a customer typed can be asked, tried with a key that no device has; raises `VerifyUrlRefused`."""
    deadline = time.monotonic() + timeout
    with _turn(url, _check_slots):
        if _ask(url, secrets.token_hex(32), _NOBODYS_IP, deadline):
            raise VerifyUrlRefused("allows_everybody")


def _find_out(
    url: str, node_key: str, source_ip: str, deadline: float, of_url: str, of_question: str
) -> Answer:
    """Ask, and remember what became of it. Raises `VerifyUrlRefused` where nobody was asked."""
    began = time.monotonic()
    try:
        is_his = _ask(url, node_key, source_ip, deadline)
    except VerifyUrlRefused as error:
        if error.code == "busy":
            raise
        answer = Answer(Verdict.SILENT, SENTENCES[error.code])
        _remember(of_url, answer, _SILENT_SECONDS)
        return answer
    answer = Answer(Verdict.YES if is_his else Verdict.NO)
    _remember(of_question, answer, _YES_SECONDS if is_his else _NO_SECONDS)
    if time.monotonic() - began > _SLOW_SECONDS:
        _remember(of_url, Answer(Verdict.SILENT, SENTENCES["slow"]), _REST_SECONDS)
    return answer


def _ask(url: str, node_key: str, source_ip: str, deadline: float) -> bool:
    """One question; raises `VerifyUrlRefused` for everything but a clear yes or no."""
    question = json.dumps({"NodePublic": format_node_key(node_key), "Source": source_ip}).encode()
    try:
        status, body = outbound.post(url, question, deadline=deadline)
    except outbound.Refused as error:
        raise VerifyUrlRefused(error.code) from None
    if 300 <= status < 400:
        raise VerifyUrlRefused("redirect")
    if status != 200:
        raise VerifyUrlRefused("status")
    try:
        answer = json.loads(body) if len(body) <= outbound.MOST_BODY_BYTES else None
    except (ValueError, RecursionError):
        answer = None
    is_allowed = answer.get("Allow") if isinstance(answer, dict) else None
    if not isinstance(is_allowed, bool):
        raise VerifyUrlRefused("not_headscale")
    return is_allowed


# Turns

_lock = threading.Lock()
# By address: the lock of its turn, and how many want it.
_turns: dict[str, list[Any]] = {}
_slots = threading.BoundedSemaphore(_AT_ONCE)
_check_slots = threading.BoundedSemaphore(_CHECKS_AT_ONCE)


@contextmanager
def _turn(url: str, slots: threading.BoundedSemaphore) -> Iterator[None]:
    """One question at a time to an address, and few of this process in all; raises `VerifyUrlRefused` to who waits long."""
    with _lock:
        turn = _turns.setdefault(url, [threading.Lock(), 0])
        turn[1] += 1
    try:
        if not turn[0].acquire(timeout=_TURN_SECONDS):
            raise VerifyUrlRefused("busy")
        try:
            if not slots.acquire(timeout=_TURN_SECONDS):
                raise VerifyUrlRefused("busy")
            try:
                yield
            finally:
                slots.release()
        finally:
            turn[0].release()
    finally:
        with _lock:
            turn[1] -= 1
            if not turn[1]:
                del _turns[url]


# What is remembered


def _recall(*keys: str) -> Answer | None:
    if copies.redis_rest.is_on:
        return None
    try:
        found = cache.get_many(keys)
    except redis.RedisError:
        copies.redis_rest.begin()
        return None
    for key in keys:
        if key in found:
            verdict, problem = found[key]
            return Answer(Verdict(verdict), problem)
    return None


def _remember(key: str, answer: Answer, seconds: int) -> None:
    if copies.redis_rest.is_on:
        return
    try:
        cache.set(key, (answer.verdict.value, answer.problem), seconds)
    except redis.RedisError:
        copies.redis_rest.begin()
