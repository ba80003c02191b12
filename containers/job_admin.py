"""Deployments and the servers' checks in the admin: what was done on servers, step by step."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.template.response import TemplateResponse
from django.urls import path
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts.admin_base import ReadOnlyAdmin
from accounts.tabs import link_to
from containers.models import Deployment, ServerCheck
from containers.services import checks
from containers.state_badges import state_badge
from containers.steps import format_seconds, step_name
from derpmgmt.lib.jobs import JobRecord
from derpmgmt.lib.way_back import part_of
from fleet.models import Server


@admin.register(Deployment)
class DeploymentAdmin(ReadOnlyAdmin):
    """Every try to put a relay right, with its log."""

    list_display = (
        "number",
        "state",
        "relay",
        "customer",
        "step_text",
        "reason_text",
        "created_at",
        "seconds",
    )
    list_filter = ("status", "error_code")
    list_select_related = ("relay__server", "relay__rental__user")
    search_fields = ("relay__rental__user__email", "relay__server__name", "=relay__pk")
    change_form_template = "admin/containers/deployment/change_form.html"
    fields = (
        "state",
        "relay",
        "customer",
        "reason_text",
        "created_at",
        "seconds",
        "worker",
        "steps",
        "words",
    )
    readonly_fields = fields

    @admin.display(description="#", ordering="pk")
    def number(self, row: Deployment) -> int:
        return row.pk

    @admin.display(description=gettext_lazy("state"), ordering="status")
    def state(self, row: Deployment) -> SafeString:
        return state_badge(row, "blue" if row.status == Deployment.Status.RUNNING else "")

    @admin.display(description=gettext_lazy("customer"))
    def customer(self, row: Deployment) -> str | SafeString:
        rental = row.relay.rental
        return link_to(rental.user, tab="relays") if rental else _("throw-away")

    @admin.display(description=gettext_lazy("step"), ordering="step")
    def step_text(self, row: Deployment) -> str:
        return step_name(row.step) or "–"

    @admin.display(description=gettext_lazy("reason"))
    def reason_text(self, row: Deployment) -> str:
        return row.reason or "–"

    @admin.display(description=gettext_lazy("seconds"))
    def seconds(self, row: Deployment) -> str:
        if row.started_at is None:
            return "–"
        return f"{((row.finished_at or timezone.now()) - row.started_at).total_seconds():.2f}"

    @admin.display(description=gettext_lazy("log"))
    def steps(self, row: Deployment) -> SafeString:
        return log_table(row)

    @admin.display(description=gettext_lazy("the host's own words"))
    def words(self, row: Deployment) -> SafeString | str:
        if not row.detail:
            return "–"
        return format_html("<details><summary>{}</summary><pre>{}</pre></details>", _("show"), row.detail)


def log_table(record: JobRecord) -> SafeString:
    """A job's log: what passed since its beginning, the step in words and how long it took, what it told."""
    lines = record.log_lines()
    if not lines:
        return SafeString("–")
    times = [parse_datetime(at) for at, _step, _text in lines]
    first, took = times[0], iter(record.step_times(timezone.now()))
    rows, before = [], None
    for at, (_at, step, text) in zip(times, lines, strict=True):
        duration = ""
        if at is not None and step != before:
            duration, before = format_seconds(next(took).seconds), step
        passed = f"{(at - first).total_seconds():.3f}" if at and first else ""
        # The gate's own steps are told as the text of the step "gate".
        rows.append((passed, step_name(step) if duration else "", duration, step_name(text)))
    return format_html(
        '<table class="panel-log"><tbody>{}</tbody></table>',
        format_html_join("", "<tr><td>+{} s</td><td>{}</td><td>{}</td><td>{}</td></tr>", rows),
    )


@admin.register(ServerCheck)
class ServerCheckAdmin(ReadOnlyAdmin):
    """Checks of servers; a server's newest one has a page that follows it live."""

    list_display = ("number", "state", "server", "reason_text", "created_at")
    list_filter = ("status",)
    list_select_related = ("server",)
    search_fields = ("server__name", "server__address")
    fields = ("state", "server", "reason_text", "created_at", "steps")
    readonly_fields = fields

    @admin.display(description="#", ordering="pk")
    def number(self, row: ServerCheck) -> int:
        return row.pk

    @admin.display(description=gettext_lazy("state"), ordering="status")
    def state(self, row: ServerCheck) -> SafeString:
        return state_badge(row, "blue" if row.status == ServerCheck.Status.RUNNING else "")

    @admin.display(description=gettext_lazy("reason"))
    def reason_text(self, row: ServerCheck) -> str:
        return row.reason or "–"

    @admin.display(description=gettext_lazy("log"))
    def steps(self, row: ServerCheck) -> SafeString:
        return log_table(row)

    def get_urls(self) -> list[Any]:
        view, live = self.admin_site.admin_view, part_of("admin:containers_server_check", "pk")
        return [
            path("server/<int:pk>/", view(self.server_check), name="containers_server_check"),
            path(
                "server/<int:pk>/live/",
                view(live(self.server_check_live)),
                name="containers_server_check_live",
            ),
            *super().get_urls(),
        ]

    def _context(self, request: HttpRequest, pk: int) -> dict[str, Any]:
        server = get_object_or_404(Server.objects.visible_to(request.user), pk=pk)
        check = ServerCheck.objects.visible_to(request.user).filter(server=server).order_by("pk").last()
        is_over = check is not None and not check.is_open
        return {
            **self.admin_site.each_context(request),
            "title": _("Checks of %(server)s") % {"server": server},
            "server": server,
            "check": check,
            "findings": checks.read_findings(check) if check else [],
            "is_over": is_over,
            # The checks begin by themselves a moment after the host key was confirmed.
            "is_coming": check is None and server.status == Server.Status.NEW and bool(server.host_key),
            "current": 4 if is_over and check and check.status == ServerCheck.Status.DONE else 3,
            "log": log_table(check) if check else "",
            "step": step_name(check.step) if check else "",
        }

    def server_check(self, request: HttpRequest, pk: int) -> HttpResponse:
        """The checks of one server as they go; POST starts them anew."""
        if request.method == "POST":
            server = get_object_or_404(Server.objects.visible_to(request.user), pk=pk)
            if not server.host_key:
                return redirect("admin:fleet_server_host_key", pk)
            checks.request_check(server_pk=server.pk, by=request.user)  # type: ignore[arg-type]
            return redirect("admin:containers_server_check", pk)
        return TemplateResponse(request, "admin/containers/server_check.html", self._context(request, pk))

    def server_check_live(self, request: HttpRequest, pk: int) -> HttpResponse:
        """The part of that page which changes; 204 while it is over and no newer one than `seen` has begun."""
        context = self._context(request, pk)
        if context["is_over"] and request.GET.get("seen") == str(context["check"].pk):
            return HttpResponse(status=204)
        return TemplateResponse(request, "admin/containers/_server_check.html", context)
