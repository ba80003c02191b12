"""A room's part of the API: its operations, declared in the room's `api.py` and joined in `derpmgmt/api.py`."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext_lazy as _
from ninja import NinjaAPI, Router
from ninja.responses import Status

from accounts.access.auth import caller
from accounts.access.models import Scope
from accounts.access.repeats import HEADER, answer_once
from derpmgmt.lib.api import Answer, Failed

_View = TypeVar("_View", bound=Callable[..., Any])

_KEY_PARAMETER = {
    "name": HEADER,
    "in": "header",
    "required": False,
    "description": "Any text of your own. Within 24 hours the same request with the same key is done once, and gets the same answer.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 200},
}


class UnknownParameter(Failed):
    """The address has a parameter that nobody knows."""

    status, code = 422, "invalid"
    sentence = _("There is no such parameter.")


class Room(Router):
    """Operations under one first word, e.g. `serial`. Each says with which scope of a token it may be asked."""

    def __init__(self, tag: str) -> None:
        super().__init__(tags=[tag])

    def reads(
        self, path: str, answer: Any, *, scope: Scope | None = Scope.READ, **more: Any
    ) -> Callable[[_View], _View]:
        """`GET path`. `scope` None is for everybody, also for who is not signed in."""
        return self._operation(["GET"], path, answer, scope, is_kept=False, **more)

    def does(
        self,
        path: str,
        answer: Any,
        *,
        scope: Scope | None = Scope.ACT,
        creates: bool = False,
        later: bool = False,
        or_stranger: bool = False,
        method: str = "POST",
        prepare: Callable[..., Any] | None = None,
        **more: Any,
    ) -> Callable[[_View], _View]:
        """`POST path`, or another `method`. `creates`: the request may carry an `Idempotency-Key`. `later`: a job does it, and the
        answer is 202 until it is done: return `accepted(…)`. `or_stranger`: also for who is not signed in; a token or
        session counts where there is one.

        What creates something is done in a transaction. What may not stand in one, because it talks to a host or takes long, does
        `prepare`: it is called like the operation itself, and what it gives is `request.prepared`.
        """
        return self._operation(
            [method],
            path,
            answer,
            scope,
            is_kept=creates,
            later=later,
            or_stranger=or_stranger,
            prepare=prepare,
            **more,
        )

    def _operation(
        self,
        methods: list[str],
        path: str,
        answer: Any,
        scope: Scope | None,
        *,
        is_kept: bool,
        later: bool = False,
        or_stranger: bool = False,
        prepare: Callable[..., Any] | None = None,
        **more: Any,
    ) -> Callable[[_View], _View]:
        answers: dict[Any, Any] = {200: answer}
        if later:
            answers[202] = answer
        extra: dict[str, Any] = {"parameters": [_KEY_PARAMETER]} if is_kept else {}
        if or_stranger:
            extra["security"] = [{}]

        def decorate(view: _View) -> _View:
            view.is_kept, view.prepare = is_kept, prepare  # type: ignore[attr-defined]
            self.add_api_operation(
                path,
                methods,
                view,
                response=answers,
                auth=caller(scope, or_stranger=or_stranger) if scope else None,
                openapi_extra=extra or None,
                # The names are the functions' own, one for each operation of the whole API.
                operation_id=view.__name__,
                summary=(view.__doc__ or "").partition("\n")[0].rstrip("."),
                **more,
            )
            return view

        return decorate


def accepted(answer: Any) -> Status:
    """The answer that a job does it, and where to follow it (its field `follow`)."""
    return Status(202, answer)


def guard(api: NinjaAPI) -> None:
    """Have all operations refuse parameters that they do not know, and do once what may be asked twice; after the rooms were joined."""
    for router in api._get_bound_routers():
        for path_view in router.path_operations.values():
            for operation in path_view.operations:
                operation.view_func = _guarded(operation)


def _whole(answer: Answer) -> HttpResponse:
    """An answer of 200 as it goes out."""
    return HttpResponse(answer.model_dump_json(), content_type="application/json; charset=utf-8")


def _guarded(operation: Any) -> Callable[..., Any]:
    view = operation.view_func
    answer_class = operation.response_models[200].model_fields["response"].annotation
    known = {
        name
        for model in operation.models
        if model.__ninja_param_source__ == "query"
        for name in model.__ninja_flatten_map__
    }

    @wraps(view)
    def ask(request: HttpRequest, **values: Any) -> Any:
        for name in request.GET:
            if name not in known:
                raise UnknownParameter(field=name[:100])
        if not view.is_kept:
            found = view(request, **values)
            # ninja would make a dictionary of what was judged when it was made, and a text of that in Python.
            return _whole(found) if type(found) is answer_class else found

        def answer() -> HttpResponse:
            response = operation.api.create_temporal_response(request)
            found: HttpResponse = operation._result_to_response(request, view(request, **values), response)
            return found

        def prepare() -> None:
            if view.prepare is not None:
                request.prepared = view.prepare(request, **values)  # type: ignore[attr-defined]

        return answer_once(request, answer, prepare)

    return ask
