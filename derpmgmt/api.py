"""The JSON API: the rooms' operations, joined under /api/v1/, and the way of a request to them.

A request for the API passes none of the pages' middleware but the first few: it has a token, or the session's cookie, and needs
neither messages nor templates. `ApiMiddleware` stands where the pages' own begins.
"""

from collections.abc import Callable
from contextlib import ExitStack
from functools import lru_cache
from http.client import responses
from typing import Any

from django.conf import settings
from django.contrib.auth.models import AnonymousUser
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.urls import Resolver404, URLResolver, path
from django.urls.resolvers import RegexPattern
from django.utils import translation
from django.utils.translation import gettext as _
from django.utils.translation.trans_real import parse_accept_lang_header
from ninja import NinjaAPI
from ninja.errors import HttpError, ValidationError

from accounts import api as accounts
from accounts.access.rooms import Room, guard
from accounts.brand import current_brand
from acl.devices import admission_api as admission
from acl.devices import api as devices
from acl.maps import api as maps
from containers import api as containers
from containers import leaving_api, limits_api, server_api, traffic_api
from derpmgmt import rental_api
from derpmgmt.history import api as history
from derpmgmt.lib.address import client_ip
from derpmgmt.lib.api.failures import NotFound, body, failure_of
from derpmgmt.lib.api.naming import name_apart
from derpmgmt.lib.api.schemas import Failure
from fleet import api as fleet
from fleet import monitoring_api
from serials.numbers import api as numbers
from serials.rentals import api as rentals

PREFIX = "/api/"
VERSION = "v1"
DOCS = {f"{PREFIX}docs", f"{PREFIX}openapi.json"}
# Addresses under other names, that the requirements have.
ALIASES = {"add_server": "server/add", "add_user": "user/register", "user/add_user": "user/register"}

# What any operation may answer beside its own answers: all of it is a `Failure`.
_FAILURES = (400, 401, 403, 404, 405, 409, 413, 422, 429, 500, 502, 503)

api = NinjaAPI(
    title="derpmgmt",
    version="1",
    description=(
        "Private DERP relays: accounts, serial numbers, servers, relays, traffic, maps and devices. "
        "Send a token as `Authorization: Bearer …`, from the account's page or from `POST /api/v1/user/login`. "
        "Every answer has `success`; a failure has `code` and `message` as well. "
        "Times are in UTC (ISO 8601). `Accept-Language` (zh-hans, en) chooses the language of messages. "
        "Each path also answers without `v1/`."
    ),
    docs_url=None,
    openapi_url=None,
    urls_namespace="api",
)


def _refuse(request: HttpRequest, error: Any) -> HttpResponse:
    status, shown, headers = failure_of(error)
    return JsonResponse(shown, status=status, headers=headers, json_dumps_params={"ensure_ascii": False})


for _kind in (Exception, Http404, HttpError, ValidationError):
    api.add_exception_handler(_kind, _refuse)


# Each room's, under its first word.
ROOMS: dict[str, list[Room]] = {
    "user": [*accounts.ROOMS["user"], numbers.user, rentals.user, history.user],
    "notifications": accounts.ROOMS["notifications"],
    "logs": accounts.ROOMS["logs"],
    "rental": [rentals.rental, limits_api.rental],
    "serial": [numbers.serial, rental_api.serial],
    "acl": [maps.acl, admission.acl],
    "container": [containers.container, limits_api.container],
    "device": [devices.device, admission.device],
    "server": [fleet.server, server_api.server, leaving_api.server],
    "traffic": [traffic_api.traffic],
    "monitoring": [monitoring_api.monitoring, *accounts.ROOMS["monitoring"]],
}
for _word, _rooms in ROOMS.items():
    for _room in _rooms:
        api.add_router(_word, _room)
guard(api)
name_apart()


class ApiMiddleware:
    """Answers /api/ without what only pages need; everything it says is JSON, whatever happens."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response
        self._resolver: URLResolver | None = None
        # Resolving costs as much as the rest of this class, and most ask for the same few addresses.
        self._resolve = lru_cache(maxsize=1024)(self._find)

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if not request.path_info.startswith(PREFIX) or request.path_info in DOCS:
            return self.get_response(request)
        asked = _language_asked(request)
        request.is_language_asked, request.ip = bool(asked), client_ip(request)  # type: ignore[attr-defined]
        with ExitStack() as lasting:
            request.lasting = lasting  # type: ignore[attr-defined]
            lasting.enter_context(translation.override(asked or settings.LANGUAGE_CODE))
            response = self._answer(request)
            response.headers["Content-Language"] = translation.get_language() or settings.LANGUAGE_CODE
        response.headers.setdefault("Cache-Control", "no-store")
        response.headers["X-Content-Type-Options"] = "nosniff"
        if settings.SECURE_HSTS_SECONDS:
            response.headers["Strict-Transport-Security"] = f"max-age={settings.SECURE_HSTS_SECONDS}"
        response.headers["Vary"] = "Accept-Language, Authorization, Cookie"
        # Failures are what programs ask for; only faults are written to the log, and those are.
        response._has_been_logged = True  # type: ignore[attr-defined]
        if request.method == "HEAD":
            response.content = b""
        return response

    def _answer(self, request: HttpRequest) -> HttpResponse:
        request.user = AnonymousUser()
        method, is_head = request.method, request.method == "HEAD"
        try:
            request.get_host()  # raises where it is none of ours
            if is_head:
                request.method = "GET"
            match = self._resolve(request.path_info)
            response = match.func(request, **match.kwargs)
        except Resolver404:
            return _refuse(request, NotFound())
        except Exception as error:
            return _refuse(request, error)
        finally:
            request.method = method
        assert isinstance(response, HttpResponse)
        if response.status_code == 405:
            text = _("This address does not take %(method)s.") % {"method": str(method)[:20]}
            return JsonResponse(
                body("wrong_method", text), status=405, headers={"Allow": response.headers["Allow"]}
            )
        return response

    def _find(self, path_info: str) -> Any:
        if self._resolver is None:
            self._resolver = URLResolver(RegexPattern(r"^/"), [path(f"api/{VERSION}/", api.urls)])
        rest = path_info.removeprefix(PREFIX).removeprefix(f"{VERSION}/")
        return self._resolver.resolve(f"{PREFIX}{VERSION}/{ALIASES.get(rest, rest)}")


def _language_asked(request: HttpRequest) -> str:
    """The first of the request's own languages (Accept-Language) that the panel speaks; "" for none."""
    for name, _weight in parse_accept_lang_header(request.META.get("HTTP_ACCEPT_LANGUAGE", "")):
        if name == "*":
            break
        try:
            return translation.get_supported_language_variant(name)
        except LookupError:
            continue
    return ""


def describe() -> dict[str, Any]:
    """The description of the whole API. Every operation may answer with a `Failure` as well, which ninja need not know: it would
    keep classes of its own for each operation and status."""
    described = dict(api.get_openapi_schema(path_prefix=f"{PREFIX.strip('/')}/{VERSION}/"))
    described["components"]["schemas"]["Failure"] = Failure.model_json_schema(mode="serialization")
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Failure"}}}
    failures = {str(status): {"description": responses[status], "content": content} for status in _FAILURES}
    for methods in described["paths"].values():
        for operation in methods.values():
            own = {str(status): answer for status, answer in operation["responses"].items()}
            operation["responses"] = own | failures
    return described


@lru_cache(maxsize=4)
def _description(_language: str, title: str) -> bytes:
    """It is the same for everybody, and making it takes a third of a second or more: once in each language and for each brand."""
    described = describe()
    return JsonResponse({**described, "info": {**described["info"], "title": title}}).content


def openapi(request: HttpRequest) -> HttpResponse:
    """The description of the whole API (OpenAPI 3.1)."""
    content = _description(translation.get_language(), current_brand().name)
    return HttpResponse(content, content_type="application/json")


def docs(request: HttpRequest) -> HttpResponse:
    """The same to read and to try, in Swagger UI; its files are the panel's own."""
    return render(request, "api_docs.html")
