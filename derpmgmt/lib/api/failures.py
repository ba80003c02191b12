"""Failures as the API answers them: whatever is raised becomes a status and a `Failure`."""

import logging
from collections.abc import Mapping
from typing import Any

from django.core.exceptions import (
    BadRequest,
    ObjectDoesNotExist,
    PermissionDenied,
    RequestDataTooBig,
    SuspiciousOperation,
    ValidationError,
)
from django.db import InterfaceError, OperationalError
from django.http import Http404
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext
from ninja.errors import AuthenticationError, HttpError
from ninja.errors import ValidationError as InputError

from derpmgmt.lib.refusals import NotSent, Refusal

log = logging.getLogger(__name__)


class Failed(Refusal):
    """A failure of the API itself, with the status it is answered with."""

    status = 400


class NotFound(Failed):
    """There is no such thing, or it is not for who asks."""

    status, code = 404, "not_found"
    sentence = gettext_lazy("There is nothing here.")


class NotSignedIn(Failed):
    """No token and no session, or none that counts."""

    status, code = 401, "not_signed_in"
    sentence = gettext_lazy("Sign in first: send a token, or use the browser in which you are signed in.")


# Where a refusal's kind says more than that it cannot be done now (409).
_STATUS = {
    "not_allowed": 403,
    "not_found": 404,
    "unknown": 404,
    "too_many_requests": 429,
    "mail_limited": 429,
    "not_sent": 503,
    "invalid": 422,
    "mistyped": 422,
    "wrong_cursor": 422,
}


def _status_of(refusal: Refusal) -> int:
    if isinstance(refusal, Failed):
        return refusal.status
    return _STATUS.get(refusal.code, 409)


def failure_of(error: Exception) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, body and headers of the answer; what is a mistake of ours is written to the log and called a fault."""
    if isinstance(error, Refusal):
        return _of_refusal(error)
    if isinstance(error, InputError):
        return 422, _of_input(error.errors), {}
    if isinstance(error, ValidationError):
        return 422, _of_validation(error), {}
    if isinstance(error, AuthenticationError):
        return _of_refusal(NotSignedIn())
    if isinstance(error, HttpError):  # ninja's own: a body that is no JSON
        return 400, body("not_json", _("The body is no JSON, or not the one that is expected.")), {}
    if isinstance(error, Http404 | ObjectDoesNotExist):
        return _of_refusal(NotFound())
    if isinstance(error, PermissionDenied):
        return 403, body("not_allowed", _("You may not do this.")), {}
    if isinstance(error, RequestDataTooBig):
        return 413, body("too_large", _("The body is too large.")), {}
    if isinstance(error, SuspiciousOperation | BadRequest):
        return 400, body("bad_request", _("The request cannot be read.")), {}
    if isinstance(error, OperationalError | InterfaceError):
        log.warning("the API cannot answer, the database is away: %s", type(error).__name__)
        return (
            503,
            body("database", _("The panel cannot answer at the moment. Try again.")),
            {"Retry-After": "5"},
        )
    log.error("the API failed", exc_info=error)
    return 500, body("fault", _("The panel made a mistake here; it is in its log.")), {}


def body(
    code: str, message: str, *, field: str = "", details: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A `Failure` as plain data."""
    return {
        "success": False,
        "code": code,
        "message": message,
        "field": field,
        "details": dict(details or {}),
    }


def _of_refusal(refusal: Refusal) -> tuple[int, dict[str, Any], dict[str, str]]:
    status, headers = _status_of(refusal), {}
    if wait := getattr(refusal, "wait_seconds", None):
        headers["Retry-After"] = str(wait)
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    details = {name: value for name, value in refusal.details().items() if name != "field"}
    message = str(refusal)
    if isinstance(refusal, NotSent) and not headers:
        headers["Retry-After"] = "60"
    return status, body(refusal.code, message, field=refusal.field, details=details), headers


def _of_validation(error: ValidationError) -> dict[str, Any]:
    """Wrong input as a model or a form found it."""
    if not hasattr(error, "error_dict"):
        return body("invalid", " ".join(str(text) for text in error.messages))
    found = {name: [str(text) for text in texts] for name, texts in error.message_dict.items()}
    name, texts = next(iter(found.items()))
    is_whole = name == "__all__"
    return body("invalid", " ".join(texts), field="" if is_whole else name, details=found)


def _of_input(errors: list[dict[str, Any]]) -> dict[str, Any]:
    """Wrong input as pydantic found it, in our words: the first is the message, all of them are the details."""
    found: dict[str, list[str]] = {}
    for error in errors:
        # Where it stands: ("body", "payload", "email"); the first two are ninja's own words.
        places = [
            str(place) for place in error["loc"] if not str(place).startswith(("function-", "constrained-"))
        ]
        skipped = 2 if places[:1] == ["body"] and len(places) > 1 else 1
        name = ".".join(places[skipped:]) or places[-1]
        found.setdefault(name, []).append(_words(error))
    name, texts = next(iter(found.items()))
    is_whole = name in {"body", "payload"}
    return body("invalid", texts[0], field="" if is_whole else name, details=found)


def _words(error: Mapping[str, Any]) -> str:
    kind, values = str(error["type"]), error.get("ctx") or {}
    if kind == "missing":
        return _("This is missing.")
    if kind == "extra_forbidden":
        return _("There is no such field.")
    if kind in {"greater_than_equal", "greater_than"}:
        return _("This must be at least %(least)s.") % {"least": values.get("ge", values.get("gt"))}
    if kind in {"less_than_equal", "less_than"}:
        return _("This may be at most %(most)s.") % {"most": values.get("le", values.get("lt"))}
    if kind == "string_too_long":
        return ngettext(
            "This may have at most %(count)d character.",
            "This may have at most %(count)d characters.",
            values["max_length"],
        ) % {"count": values["max_length"]}
    if kind == "string_too_short":
        return ngettext(
            "This must have at least %(count)d character.",
            "This must have at least %(count)d characters.",
            values["min_length"],
        ) % {"count": values["min_length"]}
    if kind in {"literal_error", "enum"}:
        return _("This must be one of: %(values)s.") % {
            "values": str(values.get("expected", "")).replace(" or ", ", ")
        }
    if kind.startswith("int"):
        return _("This must be a whole number.")
    if kind.startswith("bool"):
        return _("This must be true or false.")
    if kind.startswith(("datetime", "timezone", "date")):
        return _("This must be a time with its zone, like 2026-12-31T08:00:00Z.")
    if kind.startswith("string"):
        return _("This must be a text.")
    return _("This cannot be used.")
