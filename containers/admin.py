"""Relays, their deployments, gates and the servers' checks, for operators."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.template.loader import render_to_string
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts.admin_base import ReadOnlyAdmin
from containers.admin_acts import GATE_ACTS, RELAY_ACTS
from containers.derp.probe import CAUSES, REMEDIES
from containers.models import Deployment, Gate, Relay, ServerCheck
from containers.server_admin import ServerAdmin as ServerAdmin
from containers.services import checks, gates
from containers.steps import format_seconds, step_name
from containers.ticks import relay_days
from derpmgmt.lib.jobs import JobRecord
from derpmgmt.lib.way_back import part_of
from fleet.models import Server

COLOURS = {
    "queued": "grey",
    "planned": "blue",
    "running": "green",
    "done": "green",
    "failed": "red",
    "errored": "red",
    "lost": "orange",
    "removing": "orange",
    "released": "grey",
}


def _state(row: Any, colour: str = "") -> SafeString:
    return format_html(
        '<span class="panel-state is-{}">{}</span>', colour or COLOURS[row.status], row.get_status_display()
    )


def gate_state(gate: Any) -> SafeString:
    """The coloured state of a gate that was read by `gates.with_relays`."""
    if gate.status == Gate.Status.PLANNED and not gate.has_relays:
        return format_html('<span class="panel-state is-grey">{}</span>', _("not needed yet"))
    if gate.status == Gate.Status.RUNNING and gate.server.silent_since:
        return format_html('<span class="panel-state is-red">{}</span>', _("the server does not answer"))
    return _state(gate)


@admin.register(Relay)
class RelayAdmin(ReadOnlyAdmin):
    """Relays of all customers."""

    list_display = (
        "relay",
        "state",
        "customer",
        "server_link",
        "slot",
        "tested",
        "failure_code",
        "created_at",
    )
    list_filter = (
        "status",
        "server__region",
        "last_health__is_ok",
        ("failing_since", admin.EmptyFieldListFilter),
        ("server__silent_since", admin.EmptyFieldListFilter),
    )
    list_select_related = ("server", "rental__user", "last_health")
    search_fields = (
        "rental__user__email",
        "rental__user__username",
        "server__name",
        "server__address",
        "=derp_port",
    )
    list_per_page = 50
    acts = RELAY_ACTS

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        """Also by why the last test failed, which is no filter of its own: its table is long."""
        return lookup == "last_health__cause__exact" or super().lookup_allowed(lookup, value, request)

    fields = (
        "state",
        "customer",
        "server_link",
        "slot",
        "derp_port",
        "stun_port",
        "tested",
        "remedy",
        "day",
        "failing_since",
        "failure_code",
        "failures",
        "try_after",
        "certificate_sha256",
        "certificate_ends_at",
        "public_key",
        "image",
        "created_at",
        "proven_at",
        "released_at",
        "replaces",
        "retiring_since",
        "history",
    )
    readonly_fields = fields

    @admin.display(description=gettext_lazy("relay"), ordering="pk")
    def relay(self, row: Relay) -> str:
        return f"#{row.pk} · {row.server.address}:{row.derp_port}"

    @admin.display(description=gettext_lazy("state"), ordering="status")
    def state(self, row: Relay) -> SafeString:
        words = ""
        if row.status == Relay.Status.RUNNING and row.server.silent_since:
            words = _("the server does not answer")
        elif row.status == Relay.Status.RUNNING and row.last_health and not row.last_health.is_ok:
            words = _("test failed")
        if words:
            return format_html('<span class="panel-state is-red">{}</span>', words)
        return _state(row)

    @admin.display(description=gettext_lazy("tests of the last 24 hours"))
    def day(self, row: Relay) -> str:
        return render_to_string("containers/_day.html", {"day": relay_days([row.pk], timezone.now())[row.pk]})

    @admin.display(description=gettext_lazy("what to do"))
    def remedy(self, row: Relay) -> str:
        return str(REMEDIES.get(row.last_health.cause, "–")) if row.last_health else "–"

    @admin.display(description=gettext_lazy("customer"))
    def customer(self, row: Relay) -> str | SafeString:
        if row.rental is None:
            return _("throw-away")
        return format_html(
            '<a href="{}">{}</a>',
            reverse("admin:accounts_user_change", args=[row.rental.user_id]),
            row.rental.user,
        )

    @admin.display(description=gettext_lazy("server"), ordering="server__name")
    def server_link(self, row: Relay) -> SafeString:
        return format_html(
            '<a href="{}">{}</a>', reverse("admin:fleet_server_change", args=[row.server_id]), row.server.name
        )

    @admin.display(description=gettext_lazy("last test"))
    def tested(self, row: Relay) -> str:
        health = row.last_health
        if health is None:
            return "–"
        when = f"{timezone.localtime(health.at):%m-%d %H:%M:%S}"
        if health.is_ok:
            return f"✓ {when} · {health.packet_ms:.1f} ms"
        return f"✗ {when} · {CAUSES.get(health.cause, health.cause)}"

    @admin.display(description=gettext_lazy("deployments"))
    def history(self, row: Relay) -> SafeString:
        return format_html_join(
            SafeString("<br>"),
            '<a href="{}">#{}</a> {} {} {}',
            (
                (
                    reverse("admin:containers_deployment_change", args=[item.pk]),
                    item.pk,
                    f"{timezone.localtime(item.created_at):%Y-%m-%d %H:%M:%S}",
                    item.get_status_display(),
                    item.reason,
                )
                for item in row.deployments.all()[:20]
            ),
        )


class LateListFilter(admin.SimpleListFilter):
    """Gates that run and do not have the newest list of devices."""

    title = gettext_lazy("list of devices")
    parameter_name = "list"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("late", _("not up to date"))]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        if self.value() != "late":
            return queryset
        return queryset.filter(pk__in=gates.late_gates().filter(running_since__isnull=False).values("pk"))


@admin.register(Gate)
class GateAdmin(ReadOnlyAdmin):
    """The gates of all servers; a server's own page shows its."""

    list_display = ("server", "state", "failure", "running_since", "list_state")
    list_filter = ("status", LateListFilter, "server__region")
    list_select_related = ("server",)
    search_fields = ("server__name", "server__address")
    list_per_page = 50
    acts = GATE_ACTS
    fields = (
        "server",
        "state",
        "running_since",
        "failure",
        "failed_at",
        "failures",
        "try_after",
        "list_state",
        "list_delivered_at",
        "list_hash",
        "image",
    )
    readonly_fields = fields

    def get_queryset(self, request: HttpRequest) -> Any:
        return gates.with_relays(super().get_queryset(request).defer("secret"))

    @admin.display(description=gettext_lazy("state"), ordering="status")
    def state(self, row: Any) -> SafeString:
        return gate_state(row)

    @admin.display(description=gettext_lazy("reason"))
    def failure(self, row: Gate) -> Any:
        return gates.failure_text(row) or "–"

    @admin.display(description=gettext_lazy("list of devices"))
    def list_state(self, row: Gate) -> SafeString | str:
        if not row.is_list_late:
            return _("up to date") if row.list_delivered_at else "–"
        since = f"{timezone.localtime(row.list_changed_at):%Y-%m-%d %H:%M:%S}"
        text = _("changes not delivered since %(since)s") % {"since": since}
        return format_html('<span class="panel-state is-red">{}</span>', text)


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
    list_per_page = 50
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
        return _state(row, "blue" if row.status == Deployment.Status.RUNNING else "")

    @admin.display(description=gettext_lazy("customer"))
    def customer(self, row: Deployment) -> str:
        return str(row.relay.rental or _("throw-away"))

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
        return _state(row, "blue" if row.status == ServerCheck.Status.RUNNING else "")

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
