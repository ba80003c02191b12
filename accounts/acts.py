"""Buttons of the admin: each is declared once, says on a page of its own what will happen to whom, and calls one service."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.templatetags.admin_urls import add_preserved_filters
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils.functional import Promise

from accounts.models import User
from accounts.requests import staff_of
from derpmgmt.lib import queue
from derpmgmt.lib.address import client_ip
from derpmgmt.lib.refusals import Refusal


class ActForm(forms.Form):
    """What an act needs to know besides its row."""

    def __init__(self, *args: Any, row: Any = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.row = row


@dataclass(frozen=True)
class Doing:
    """Who acts from where, and what the form said."""

    by: User
    ip: str
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Shown:
    """What an act answers with where that is to be read once and never again; `note` stands below it."""

    text: str
    note: str


@dataclass(frozen=True, kw_only=True)
class Ticked:
    """An act in the menu of a list, for the rows that are ticked there (`accounts.ticked`).

    `explain` says what will happen to so many rows, `done` what happened to so many; `name` is what a row is called beside others,
    and `may` says who has it in the menu at all.
    """

    label: str | Promise
    explain: Callable[[int], Iterable[str]]
    done: Callable[[int], str]
    name: Callable[[Any], str] = str
    may: Callable[[User], bool] = lambda _by: True


@dataclass(frozen=True, kw_only=True)
class Act:
    """One button.

    `run` calls the service and returns the sentence that says what happened (or what is to be shown once); None where there was
    nothing left to do. A `Refusal` is shown as it is. `explain` says what will happen to whom, `hindrances` what stands in its way
    (the button is not there then). `button` is the word on its page's own button, where that is not the `label`. `fits` says whether the row's page has the button, and `otherwise` what is the case where it
    does not fit any more, as after a second click; without a word of it the service is left to say so. `is_at_once` is for what
    does no harm: the row's page asks nothing; `is_danger` for what stops or ends something, or takes it away from somebody: its page
    warns, and its button is red. `after` is where to go then, the row's page if it is not given. With `ticked` it can also be done
    to many rows of the list, all with what its form says once: that form then knows no row.
    """

    verb: str
    label: str | Promise | Callable[[Any], str | Promise]
    run: Callable[[Any, Doing], str | Shown | None]
    explain: Callable[[Any], Iterable[str]]
    fits: Callable[[Any], bool] = lambda _row: True
    otherwise: Callable[[Any], str] = lambda _row: ""
    hindrances: Callable[[Any], Iterable[str]] = lambda _row: ()
    may: Callable[[User, Any], bool] = lambda _by, _row: True
    form: Callable[..., ActForm] | None = None
    button: str | Promise = ""
    is_at_once: bool = False
    is_danger: bool = False
    after: Callable[[Any], str] | None = None
    ticked: Ticked | None = None

    def label_of(self, row: Any) -> str:
        """The button's word at this row."""
        return str(self.label(row) if callable(self.label) else self.label)


@dataclass(frozen=True)
class Button:
    """An act as a page shows it."""

    label: str
    url: str
    is_at_once: bool
    is_danger: bool = False


def buttons_of(acts: Iterable[Act], row: Any, by: User) -> list[Button]:
    """The buttons that a person has at this row, wherever a page shows them."""
    name = f"admin:{row._meta.app_label}_{row._meta.model_name}_act"
    return [
        Button(act.label_of(row), reverse(name, args=[row.pk, act.verb]), act.is_at_once, act.is_danger)
        for act in acts
        if act.may(by, row) and act.fits(row)
    ]


@dataclass(frozen=True)
class Link:
    """A way from a row's page to what another room has about it."""

    label: str
    url: str


class ActsMixin(admin.ModelAdmin[Any]):
    """Buttons on the rows' pages (`acts`) and above the list (`list_acts`, whose row is None).

    GET shows what will happen, POST does it. Who may use the site and see the row may press, as far as the act allows them.
    """

    acts: ClassVar[tuple[Act, ...]] = ()
    list_acts: ClassVar[tuple[Act, ...]] = ()

    @property
    def _stem(self) -> str:
        return f"{self.opts.app_label}_{self.opts.model_name}"

    def get_urls(self) -> list[Any]:
        view, own = self.admin_site.admin_view, []
        if self.acts:
            own.append(path("<int:pk>/<slug:verb>/do/", view(self.act_view), name=f"{self._stem}_act"))
        if self.list_acts:
            own.append(path("<slug:verb>/do/", view(self.list_act_view), name=f"{self._stem}_list_act"))
        return [*own, *super().get_urls()]

    def buttons(self, request: HttpRequest, row: Any) -> list[Button]:
        """The buttons that this person has at this row (None: the list)."""
        if row is not None:
            found = buttons_of(self.acts, row, staff_of(request))
        else:
            url = f"admin:{self._stem}_list_act"
            found = [
                Button(act.label_of(None), reverse(url, args=[act.verb]), act.is_at_once, act.is_danger)
                for act in self.list_acts
                if act.may(staff_of(request), None) and act.fits(None)
            ]
        return [replace(button, url=self._with_filters(request, button.url)) for button in found]

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        row = kwargs.get("obj")
        # A page with tabs has its buttons in its head.
        if row is not None and "acts" not in context:
            context["acts"] = self.buttons(request, row)
            # What the rooms above have about it.
            context["links"], context["parts"] = queue.ask("row_links", row), queue.ask("row_parts", row)
        return super().render_change_form(request, context, *args, **kwargs)

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        acts = self.buttons(request, None)
        return super().changelist_view(request, {"acts": acts, **(extra_context or {})})

    def act_view(self, request: HttpRequest, pk: int, verb: str) -> HttpResponse:
        """What one of the buttons on a row's page will do, and doing it."""
        row = get_object_or_404(self.get_queryset(request), pk=pk)
        return self._answer(request, self._find(self.acts, verb), row)

    def list_act_view(self, request: HttpRequest, verb: str) -> HttpResponse:
        """The same for a button above the list."""
        return self._answer(request, self._find(self.list_acts, verb), None)

    @staticmethod
    def _find(acts: Iterable[Act], verb: str) -> Act:
        for act in acts:
            if act.verb == verb:
                return act
        raise Http404

    def _with_filters(self, request: HttpRequest, url: str) -> str:
        """The address with the filters of the list from which the person came, so that the way back leads to the same list."""
        kept: Any = {"opts": self.opts, "preserved_filters": self.get_preserved_filters(request)}
        return str(add_preserved_filters(kept, url))

    def _page_of(self, row: Any) -> str:
        if row is None:
            return reverse(f"admin:{self._stem}_changelist")
        return reverse(f"admin:{self._stem}_change", args=[row.pk])

    def _now(self, request: HttpRequest, row: Any) -> Any:
        """The row as it is by now, for what is the case after all."""
        return row and (self.get_queryset(request).filter(pk=row.pk).first() or row)

    def _answer(self, request: HttpRequest, act: Act, row: Any) -> HttpResponse:
        if not self.has_view_permission(request, row) or not act.may(staff_of(request), row):
            raise PermissionDenied
        if not act.fits(row) and (words := act.otherwise(row)):
            messages.info(request, words)
            return self._go(request, self._page_of(row))
        form = act.form(request.POST if request.method == "POST" else None, row=row) if act.form else None
        hindrances, shown = list(act.hindrances(row)), None
        if request.method == "POST" and not hindrances and (form is None or form.is_valid()):
            try:
                done = self._run(request, act, row, form)
            except Refusal as refusal:
                if form is None or not form.fields or not act.fits(self._now(request, row)):
                    messages.error(request, str(refusal))
                    return self._go(request, self._page_of(row))
                form.add_error(refusal.field if refusal.field in form.fields else None, str(refusal))
            else:
                if not isinstance(done, Shown):
                    return done
                shown = done
        label = act.label_of(row)
        context = {
            **self.admin_site.each_context(request),
            "title": label if row is None else f"{label} · {row}",
            "opts": self.opts,
            "row": row,
            "label": label,
            "button": act.button,
            "is_danger": act.is_danger,
            "explanation": list(act.explain(row)),
            "hindrances": hindrances,
            "shown": shown,
            "form": form,
            "back_to": self._with_filters(request, self._page_of(row)),
            "preserved_filters": self.get_preserved_filters(request),
        }
        return TemplateResponse(request, "admin/act.html", context)

    def _run(self, request: HttpRequest, act: Act, row: Any, form: ActForm | None) -> HttpResponse | Shown:
        """Raises `Refusal` of the service."""
        doing = Doing(staff_of(request), client_ip(request), form.cleaned_data if form else {})
        done = act.run(row, doing)
        if isinstance(done, Shown):
            return done
        now = self._now(request, row)
        if done is None:
            messages.info(request, act.otherwise(now))
        else:
            messages.success(request, done)
        return self._go(request, act.after(now) if act.after else self._page_of(now))

    def _go(self, request: HttpRequest, url: str) -> HttpResponse:
        return HttpResponseRedirect(self._with_filters(request, url))
