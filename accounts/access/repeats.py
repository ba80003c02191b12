"""Requests that may come twice: with the same `Idempotency-Key`, within a day, the second gets the answer of the first."""

import hashlib
import json
from collections.abc import Callable

from django.db import IntegrityError, transaction
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from accounts.access.models import KEPT, KeptAnswer
from derpmgmt.lib.api import Failed
from derpmgmt.lib.crypto import keyed_hash
from derpmgmt.lib.refusals import Refusal

HEADER = "Idempotency-Key"
_LONGEST = 200


class WrongKey(Failed):
    """The key is none."""

    status, code = 422, "invalid"
    sentence = _("An Idempotency-Key has 1 to 200 printable characters.")
    field = HEADER


class KeyUsed(Failed):
    """The key came with another request before."""

    status, code = 422, "idempotency_key_used"
    sentence = _("This Idempotency-Key came with another request before. Take a new one for a new request.")
    field = HEADER


class _Undone(Exception):
    """What the request did is taken back, since its answer is a failure."""

    def __init__(self, response: HttpResponse) -> None:
        self.response = response


def answer_once(
    request: HttpRequest, do: Callable[[], HttpResponse], prepare: Callable[[], None] = lambda: None
) -> HttpResponse:
    """The answer of `do`, or the one that was kept when the same request came before with the same key.

    The key, what is done and the answer come in one transaction: a process that dies leaves none of them, and a second request at the same
    time waits for the first. Failures are not kept: the same request may do better later; what a refusal wrote down stays, as it does
    without a key. `prepare` is called before, outside of the transaction, unless an answer was kept. Raises `WrongKey`, `KeyUsed`.
    """
    key = request.headers.get(HEADER)
    if key is None:
        prepare()
        return do()
    if not 0 < len(key) <= _LONGEST or not key.isprintable():
        raise WrongKey
    user = request.user if request.user.is_authenticated else None
    key_hash = keyed_hash("idempotency-key", f"{user.pk if user else 0} {key}")
    request_hash = _hash(request)
    kept = KeptAnswer.objects.filter(key_hash=key_hash)
    now = timezone.now()
    if found := kept.filter(created_at__gt=now - KEPT).first():
        return _again(found, request_hash)
    kept.filter(created_at__lte=now - KEPT).delete()
    try:
        prepare()
    except Refusal:
        # What it used up may be what the same request, at the same time, has used.
        if found := kept.first():
            return _again(found, request_hash)
        raise
    try:
        with transaction.atomic():
            row = KeptAnswer.objects.create(user=user, key_hash=key_hash, request_hash=request_hash)
            try:
                response = do()
            except Refusal as refusal:
                if transaction.get_connection().needs_rollback:
                    raise
                refused = refusal
                row.delete()
            else:
                if response.status_code >= 400:
                    raise _Undone(response)
                row.status, row.body = response.status_code, response.content.decode()
                row.save(update_fields=["status", "body"])
                return response
    except _Undone as undone:
        return undone.response
    except IntegrityError:
        # The same request, at the same time.
        if (found := kept.first()) is None:
            raise
        return _again(found, request_hash)
    # Raised after the transaction: the activity log's line about it is to stay.
    raise refused


def _again(kept: KeptAnswer, request_hash: str) -> HttpResponse:
    if kept.request_hash != request_hash:
        raise KeyUsed
    response = HttpResponse(kept.body, status=kept.status, content_type="application/json; charset=utf-8")
    response.headers["Idempotent-Replayed"] = "true"
    return response


def _hash(request: HttpRequest) -> str:
    """Method, address and body, whatever the order of the body's fields and however it is spaced."""
    try:
        body = json.dumps(json.loads(request.body or b"null"), sort_keys=True)
    except ValueError:
        body = hashlib.sha256(request.body).hexdigest()
    return keyed_hash("idempotent-request", f"{request.method} {request.get_full_path()} {body}")
