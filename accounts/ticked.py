"""Buttons for the rows that are ticked in a list of the admin: a page says what will happen to whom, and one click does it row by row."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.contrib import messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils.html import format_html, format_html_join
from django.utils.http import urlencode
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from accounts.acts import Act, ActsMixin, Doing
from accounts.requests import staff_of
from derpmgmt.lib.address import client_ip
from derpmgmt.lib.paging import MOST_ROWS
from derpmgmt.lib.refusals import Refusal

# So many rows are named before anything is done; of what was not done all are.
SHOWN = 10
_LONGEST_NUMBER = 18


@dataclass
class Outcome:
    """What came, or would come, of each of the rows: to do (or done), nothing left to do, refused; with names and reasons."""

    done: list[Any] = field(default_factory=list)
    idle: list[tuple[str, str]] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)


class TickedMixin(ActsMixin):
    """Has those of `acts` that say so (`Act.ticked`) in the menu of the list.

    What is confirmed is what the page showed: the rows that were named there, as far as it still fits them when it is their turn.
    """

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view(self.ticked_view)
        own = [path("ticked/<slug:verb>/do/", view, name=f"{self._stem}_ticked")] if self._for_many() else []
        return [*own, *super().get_urls()]

    def _for_many(self) -> list[Act]:
        return [act for act in self.acts if act.ticked]

    def action_checkbox(self, obj: Any) -> SafeString:
        """The row's box in a label, so that all of its cell ticks."""
        return format_html('<label class="admin-tick">{}</label>', super().action_checkbox(obj))

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        mine = {
            act.verb: (self._ask, act.verb, act.ticked.label)
            for act in self._for_many()
            if act.ticked and act.ticked.may(staff_of(request))
        }
        return {**super().get_actions(request), **mine}

    def response_action(
        self, request: HttpRequest, queryset: QuerySet[Any], *args: Any, **kwargs: Any
    ) -> HttpResponse | None:
        """An action takes as many rows as a page has, so that no request works without an end; more are refused in a sentence."""
        if request.POST.get("select_across", "0") != "0":
            is_too_much = len(queryset.order_by().values_list("pk")[: MOST_ROWS + 1]) > MOST_ROWS
        else:
            is_too_much = len(request.POST.getlist(ACTION_CHECKBOX_NAME)) > MOST_ROWS
        if not is_too_much:
            return super().response_action(request, queryset, *args, **kwargs)
        messages.error(request, _too_many())
        return HttpResponseRedirect(request.get_full_path())

    @staticmethod
    def _ask(page: "TickedMixin", request: HttpRequest, queryset: QuerySet[Any]) -> HttpResponse:
        """The way to the page that asks; a page of its own address outlives a reload, another language and another sign-in."""
        verb, pks = request.POST.get("action", ""), queryset.values_list("pk", flat=True)
        query = urlencode({"rows": ",".join(map(str, pks))})
        if filters := page.get_preserved_filters(request):
            query += f"&{filters}"
        return HttpResponseRedirect(f"{reverse(f'admin:{page._stem}_ticked', args=[verb])}?{query}")

    def ticked_view(self, request: HttpRequest, verb: str) -> HttpResponse:
        """What will happen to the rows, and doing it."""
        act = self._find(self._for_many(), verb)
        if act.ticked is None:
            raise Http404
        by = staff_of(request)
        if not self.has_view_permission(request) or not act.ticked.may(by):
            raise PermissionDenied
        back_to = self._page_of(None)
        if filters := request.GET.get("_changelist_filters"):
            back_to = f"{back_to}?{filters}"
        is_post = request.method == "POST"
        pks = _numbers(request.GET.get("rows", "").split(",") if not is_post else request.POST.getlist("row"))
        if len(pks) > MOST_ROWS:
            messages.error(request, _too_many())
            return HttpResponseRedirect(back_to)
        rows = self._ticked_rows(request, pks)
        gone = len(pks) - len(rows)
        form = act.form(request.POST if is_post else None, row=None) if act.form else None
        if is_post and (form is None or form.is_valid()):
            self._tell(request, act, self._do(request, act, rows, form.cleaned_data if form else {}), gone)
            return HttpResponseRedirect(back_to)
        plan = self._look(act, by, rows)
        context = {
            **self.admin_site.each_context(request),
            "title": act.ticked.label,
            "opts": self.opts,
            "row": None,
            "label": act.ticked.label,
            "explanation": list(act.ticked.explain(len(plan.done))) if plan.done else [],
            "hindrances": [] if plan.done else [_("Nothing can be done with any of the rows.")],
            "named": [act.ticked.name(row) for row in plan.done[:SHOWN]],
            "more": max(0, len(plan.done) - SHOWN),
            "left_out": [_reason(name, why) for name, why in (plan.idle + plan.refused)[:SHOWN]],
            "more_left_out": max(0, len(plan.idle) + len(plan.refused) - SHOWN),
            "gone": _gone(gone) if gone else "",
            "rows": [str(row.pk) for row in plan.done],
            "form": form,
            "is_danger": act.is_danger,
            "back_to": back_to,
            "preserved_filters": self.get_preserved_filters(request),
        }
        return TemplateResponse(request, "admin/act.html", context)

    def _ticked_rows(self, request: HttpRequest, pks: Sequence[int]) -> list[Any]:
        rows = self.get_queryset(request).filter(pk__in=pks)
        if related := self.list_select_related:
            rows = (
                rows.select_related(*related) if isinstance(related, list | tuple) else rows.select_related()
            )
        by_pk = {row.pk: row for row in rows}
        return [by_pk[pk] for pk in pks if pk in by_pk]

    def _look(self, act: Act, by: Any, rows: Iterable[Any]) -> Outcome:
        """What would come of each row if it was done now."""
        assert act.ticked
        found = Outcome()
        for row in rows:
            name = act.ticked.name(row)
            if not act.may(by, row):
                found.refused.append((name, _("You may not do this here.")))
            elif not act.fits(row):
                found.idle.append((name, act.otherwise(row)))
            elif hindrances := list(act.hindrances(row)):
                found.refused.append((name, " ".join(map(str, hindrances))))
            else:
                found.done.append(row)
        return found

    def _do(self, request: HttpRequest, act: Act, rows: Iterable[Any], data: dict[str, Any]) -> Outcome:
        """One call of the service for each row; what another row ran into holds none up."""
        assert act.ticked
        doing, outcome = Doing(staff_of(request), client_ip(request), data), Outcome()
        for row in rows:
            found = self._look(act, doing.by, [row])
            outcome.idle += found.idle
            outcome.refused += found.refused
            if not found.done:
                continue
            name = act.ticked.name(row)
            try:
                is_done = act.run(row, doing) is not None
            except Refusal as refusal:
                outcome.refused.append((name, str(refusal)))
                continue
            if is_done:
                outcome.done.append(row)
            else:
                outcome.idle.append((name, act.otherwise(self._now(request, row))))
        return outcome

    def _tell(self, request: HttpRequest, act: Act, outcome: Outcome, gone: int) -> None:
        assert act.ticked
        if outcome.done:
            names = [(act.ticked.name(row), "") for row in outcome.done[:SHOWN]]
            if more := len(outcome.done) - len(names):
                names.append((ngettext("and %(n)d more", "and %(n)d more", more) % {"n": more}, ""))
            messages.success(request, _listed(act.ticked.done(len(outcome.done)), names))
        if outcome.idle:
            count = len(outcome.idle)
            text = ngettext(
                "For %(count)d row nothing was left to do:",
                "For %(count)d rows nothing was left to do:",
                count,
            )
            messages.info(request, _listed(text % {"count": count}, outcome.idle))
        if outcome.refused:
            count = len(outcome.refused)
            text = ngettext("%(count)d row was refused:", "%(count)d rows were refused:", count)
            messages.error(request, _listed(text % {"count": count}, outcome.refused))
        if gone:
            messages.warning(request, _gone(gone))
        if not (outcome.done or outcome.idle or outcome.refused or gone):
            messages.warning(request, _("No row was ticked, and nothing was done."))


def _too_many() -> str:
    text = _(
        "At most %(most)d rows are done at once, and nothing was done: narrow the list down, or go page by page."
    )
    return text % {"most": MOST_ROWS}


def _gone(count: int) -> str:
    text = ngettext("%(count)d row is no longer there.", "%(count)d rows are no longer there.", count)
    return text % {"count": count}


def _numbers(texts: Iterable[str]) -> list[int]:
    """The primary keys among these, each once, in order; what is none is left out."""
    found = (
        int(text) for text in texts if text.isascii() and text.isdecimal() and len(text) <= _LONGEST_NUMBER
    )
    return list(dict.fromkeys(found))


def _reason(name: str, why: str) -> str:
    return why if name in why else f"{name}: {why}" if why else name


def _listed(heading: str, rows: Iterable[tuple[str, str]]) -> str:
    lines = [heading, *(_reason(name, why) for name, why in rows)]
    return format_html_join("\n", "{}<br>", ((line,) for line in lines))
