"""The codes of a batch in the admin: to be copied, printed on cards and taken away as files. Who sees them is written down each time."""

from typing import Any

import tablib  # type: ignore[import-untyped]
from django.conf import settings
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from accounts.requests import staff_of
from derpmgmt.lib.address import client_ip
from derpmgmt.lib.paging import page_number
from serials.numbers import codes, services
from serials.numbers.models import SerialBatch, SerialNumber
from serials.numbers.wording import gives

# So many cards are one print; a batch of more has several.
CARDS = 500
_FILES = {
    "csv": "text/csv; charset=utf-8",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}
# Whoever has just made a batch sees its codes without asking for them once more.
_JUST_MADE = "batch_just_made"


def download(
    request: HttpRequest, batches: QuerySet[SerialBatch] | list[SerialBatch], kind: str
) -> HttpResponse:
    """The codes of these batches as a file of `kind` (csv, xlsx), with what has become of each."""
    data = tablib.Dataset(
        headers=[
            str(text) for text in (_("serial number"), _("days"), _("state"), _("redeem by"), _("batch"))
        ]
    )
    for batch in batches:
        redeem_by = batch.redeem_by.isoformat() if batch.redeem_by else ""
        for serial in _reveal(request, batch):
            data.append(
                (codes.group(serial.code), batch.days, serial.get_status_display(), redeem_by, batch.pk)
            )
    content = data.export(kind)
    if kind == "csv":
        # The mark lets spreadsheet programs read the headings as UTF-8.
        content = ("\ufeff" + content).encode()
    headers = {
        "Content-Disposition": f'attachment; filename="serials.{kind}"',
        "Cache-Control": "private, no-store",
    }
    return HttpResponse(content, content_type=_FILES[kind], headers=headers)


def _reveal(request: HttpRequest, batch: SerialBatch) -> list[SerialNumber]:
    return services.reveal_batch(batch=batch, by=staff_of(request), ip=client_ip(request))


class BatchCodesMixin(admin.ModelAdmin[Any]):
    """The page of a batch's codes. GET asks, POST shows; what was made a moment ago is shown at once, which is where making ends."""

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view(self.codes_view)
        return [path("<int:pk>/codes/", view, name="serials_serialbatch_codes"), *super().get_urls()]

    def response_add(
        self, request: HttpRequest, obj: SerialBatch, post_url_continue: str | None = None
    ) -> HttpResponse:
        request.session[_JUST_MADE] = obj.pk
        messages.success(request, made_sentence(obj))
        return HttpResponseRedirect(codes_page(obj))

    def codes_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """A batch's codes: shown, as cards, or as a file (`what`)."""
        batch = get_object_or_404(self.get_queryset(request), pk=pk)
        what = request.POST.get("what", "show") if request.method == "POST" else ""
        if what in _FILES:
            return download(request, [batch], what)
        if what == "cards":
            return self._cards(request, batch)
        is_new = request.session.get(_JUST_MADE) == batch.pk
        if is_new:
            del request.session[_JUST_MADE]
        shown = _reveal(request, batch) if what or is_new else None
        unused = [serial for serial in shown or () if serial.status == SerialNumber.Status.UNUSED]
        context = {
            **self.admin_site.each_context(request),
            "title": _("Codes of %(batch)s") % {"batch": batch},
            "opts": self.opts,
            "batch": batch,
            "is_new": is_new,
            "is_shown": shown is not None,
            "codes": [codes.group(serial.code) for serial in unused],
            "gives": gives(batch),
            "prints": -(-batch.unused_count // CARDS),
            "cards": CARDS,
            "may_pay": staff_of(request).is_superuser,
        }
        return TemplateResponse(request, "admin/serials/batch_codes.html", context)

    def _cards(self, request: HttpRequest, batch: SerialBatch) -> HttpResponse:
        """Cards for the codes that are unused, `CARDS` of them on the sheets of one print."""
        unused = [serial for serial in _reveal(request, batch) if serial.status == SerialNumber.Status.UNUSED]
        first = min((page_number(request.POST.get("print", "1")) - 1) * CARDS, len(unused))
        context = {
            "batch": batch,
            "codes": [codes.group(serial.code) for serial in unused[first : first + CARDS]],
            "gives": gives(batch),
            "redeem_url": settings.PUBLIC_URL + reverse("serials:serial-redeem"),
            "back_to": codes_page(batch),
        }
        return TemplateResponse(request, "admin/serials/batch_cards.html", context)


def codes_page(batch: SerialBatch) -> str:
    """The address of the page of a batch's codes."""
    return reverse("admin:serials_serialbatch_codes", args=[batch.pk])


def made_sentence(batch: SerialBatch) -> str:
    """That a batch is made, and how many codes it has."""
    text = ngettext(
        "%(count)d serial number of batch %(batch)s is made.",
        "%(count)d serial numbers of batch %(batch)s are made.",
        batch.count,
    )
    return text % {"count": batch.count, "batch": batch}
