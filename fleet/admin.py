"""The fleet in the admin: registering servers, confirming their host keys, maintenance and removal."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, ClassVar

from django.contrib import admin, messages
from django.db.models import Case, Count, Q, QuerySet, SmallIntegerField, When
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts.acts import Act, Link
from accounts.admin_base import StaffAdmin
from accounts.alerts.admin_parts import show_alerts
from accounts.models import OperationLog
from accounts.tabs import Said, Tab, TabsMixin, link_to, show_table
from derpmgmt.lib import queue
from derpmgmt.lib.moments import age, moment
from derpmgmt.lib.way_back import part_of
from fleet import services
from fleet.admin_acts import SERVER_ACTS
from fleet.forms import SERVER_FIELDS, CredentialForm, HostKeyForm, ProviderAccountForm, ServerForm
from fleet.graph_pages import GraphsMixin
from fleet.graphs import SERVER_GRAPHS
from fleet.models import ProviderAccount, Region, Server, SshCredential
from fleet.samples import LOAD
from fleet.server_log import CLOCKS, log_of
from fleet.ssh import RemoteError, read_host_key


@admin.register(Region)
class RegionAdmin(StaffAdmin):
    """Places where servers stand."""

    list_display = ("code", "name_zh", "name_en", "latitude", "longitude")
    search_fields = ("code", "name_zh", "name_en")


@admin.register(ProviderAccount)
class ProviderAccountAdmin(StaffAdmin):
    """Accounts at cloud providers; the phone number is shown masked."""

    form = ProviderAccountForm
    list_display = ("provider", "name", "masked_phone")

    @admin.display(description=gettext_lazy("phone number"))
    def masked_phone(self, row: ProviderAccount) -> str:
        return row.phone_masked or "–"


@admin.register(SshCredential)
class SshCredentialAdmin(StaffAdmin):
    """How the panel signs in; secrets go in and never come out."""

    form = CredentialForm
    list_display = ("name", "username", "server_count")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return (
            super()
            .get_queryset(request)
            .annotate(servers_using=Count("servers"))
            .defer("private_key", "password")
        )

    @admin.display(description=gettext_lazy("servers"))
    def server_count(self, row: Any) -> int:
        return int(row.servers_using)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        services.log_operation(
            by=request.user,  # type: ignore[arg-type]
            action="credential.changed" if change else "credential.created",
            target=obj.name,
        )


# What does not work stands first, then what waits for a person, then what works.
WORST_FIRST = Case(
    When(status=Server.Status.RETIRED, then=9),
    When(~Q(status=Server.Status.NEW), silent_since__isnull=False, then=0),
    When(status=Server.Status.UNHEALTHY, then=1),
    When(status=Server.Status.NEW, then=2),
    When(status=Server.Status.HEALTHY, then=4),
    default=3,
    output_field=SmallIntegerField(),
)
# What a person began, and the line of the log that says when.
_BEGUN = {
    Server.Status.MAINTENANCE: "server.maintenance_started",
    Server.Status.DRAINING: "server.draining_started",
}
COLOURS = {
    Server.Status.NEW: "blue",
    Server.Status.HEALTHY: "green",
    Server.Status.UNHEALTHY: "red",
    Server.Status.MAINTENANCE: "orange",
    Server.Status.DRAINING: "orange",
    Server.Status.RETIRED: "grey",
}


def is_silent(server: Server) -> bool:
    """Whether it should answer and does not."""
    return bool(server.silent_since) and server.status not in {Server.Status.NEW, Server.Status.RETIRED}


def _show_log(server: Server, request: HttpRequest) -> SafeString:
    """What was done with a server."""
    rows = log_of(server, request.user)

    def cells(found: list[OperationLog]) -> Iterable[Iterable[Any]]:
        for entry in found:
            actor = link_to(entry.actor, tab="log") if entry.actor else ""
            yield entry.at, link_to(entry, entry.action_text), actor, entry.detail.get("reason", ""), entry.ip

    headings = [_("time"), _("action"), _("who"), _("reason"), _("IP address")]
    return show_table(request, _("Activity log"), rows.select_related("actor"), headings, cells)


class ServerAdmin(GraphsMixin, TabsMixin, StaffAdmin):
    """Servers: one line each, and four steps to add one. The room that knows what stands on them shows them with that."""

    form = ServerForm
    list_display: tuple[str, ...] = (
        "name",
        "state",
        "region",
        "account",
        "address",
        "load",
        "latency",
        "last_visit_at",
    )
    list_filter = ("status", "region", "provider_account")
    search_fields = (
        "name",
        "address",
        "ssh_host",
        "provider_account__provider",
        "provider_account__name",
        "region__name_zh",
        "region__name_en",
    )
    list_select_related = ("region", "provider_account")
    acts: ClassVar[tuple[Act, ...]] = SERVER_ACTS
    form_tab = ("settings", gettext_lazy("Settings"))
    series, graphs = LOAD, SERVER_GRAPHS
    readonly_fields = (
        "state",
        "key_fingerprint",
        "docker_version",
        "last_contact_at",
        "last_visit_at",
        "traffic_runs_out_on",
        "traffic_over_at",
    )
    fieldsets = (
        (None, {"fields": ("name", "region", "provider_account", "capacity", "customer_limit")}),
        (gettext_lazy("Addresses"), {"fields": ("address", "bind_address")}),
        (
            gettext_lazy("Ports"),
            {"fields": (("tcp_port_first", "tcp_port_last"), ("udp_port_first", "udp_port_last"))},
        ),
        (gettext_lazy("Admission"), {"fields": ("is_fail_open",)}),
        (gettext_lazy("Traffic"), {"fields": ("traffic_limit_bytes", "traffic_reset_day")}),
        ("SSH · Docker", {"fields": ("ssh_host", "ssh_port", "credential", "docker_socket")}),
    )
    _seen = (gettext_lazy("State"), {"fields": readonly_fields})

    def own_says(self, row: Server) -> Iterator[Said]:
        yield Said(row.get_status_display(), COLOURS[Server.Status(row.status)])
        if begun := _BEGUN.get(Server.Status(row.status)):
            entries = OperationLog.objects.filter(
                action=begun, target=row.name, at__gte=row.created_at - CLOCKS
            )
            for at in entries.order_by("-pk").values_list("at", flat=True)[:1]:
                yield Said(_("begun on %(at)s") % {"at": moment(at)})
        if is_silent(row):
            since = moment(row.silent_since)
            yield Said(_("no answer since %(since)s") % {"since": since}, "red")
        elif row.unhealthy_since:
            yield Said(_("since %(since)s") % {"since": moment(row.unhealthy_since)})
        if row.reason:
            yield Said(row.reason)
        yield from (Said(row.region.name), Said(row.address))

    def own_tabs(self, row: Server) -> Iterator[Tab]:
        yield self.graphs_tab(row)
        yield Tab("alerts", _("Alerts"), partial(show_alerts, server_pk=row.pk))
        yield Tab("log", _("Activity log"), partial(_show_log, row))

    def own_links(self, row: Server) -> Iterator[Link]:
        if row.status != Server.Status.RETIRED:
            yield Link(_("Host key"), reverse("admin:fleet_server_host_key", args=[row.pk]))

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        return (self._seen, *self.fieldsets) if obj else self.fieldsets

    def get_ordering(self, request: HttpRequest) -> Any:
        return (WORST_FIRST, "name")

    @admin.display(description=gettext_lazy("state"), ordering=WORST_FIRST)
    def state(self, server: Server) -> SafeString:
        badge = '<span class="panel-state is-{}">{}</span> <span class="admin-quiet">{}</span>'
        if is_silent(server):
            why = format_html('<span title="{}">{}</span>', server.reason, age(server.silent_since))
            return format_html(badge, "red", _("no answer"), why)
        colour = COLOURS[Server.Status(server.status)]
        parts = [part for part in (server.reason, age(server.unhealthy_since)) if part]
        why = format_html_join(" · ", "{}", ((part,) for part in parts))
        return format_html(badge, colour, server.get_status_display(), why)

    @admin.display(description=gettext_lazy("load per core"), ordering="load_ratio")
    def load(self, server: Server) -> str:
        load = server.fresh(server.load_ratio)
        return "–" if load is None else f"{load:.2f}"

    @admin.display(description=gettext_lazy("latency"), ordering="answer_ms")
    def latency(self, server: Server) -> str:
        """How long its shell takes to answer the panel."""
        latency = server.fresh(server.answer_ms)
        return "–" if latency is None else f"{latency:.0f} ms"

    @admin.display(description=gettext_lazy("provider account"), ordering="provider_account")
    def account(self, server: Server) -> SafeString | str:
        account = server.provider_account
        if account is None:
            return "–"
        return format_html('{} <span class="admin-quiet">{}</span>', account, account.phone_masked)

    @admin.display(description=gettext_lazy("host key"))
    def key_fingerprint(self, server: Server) -> str:
        from fleet.ssh import HostKey

        return HostKey.from_line(server.host_key).fingerprint if server.host_key else "–"

    def get_urls(self) -> list[Any]:
        def staff(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
            return self.admin_site.admin_view(view)

        key = part_of("admin:fleet_server_host_key", "pk")
        return [
            path("<int:pk>/host-key/", staff(self.host_key_confirm), name="fleet_server_host_key"),
            path(
                "<int:pk>/host-key/read/", staff(key(self.host_key_read)), name="fleet_server_host_key_read"
            ),
            *super().get_urls(),
        ]

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        fields = {name: form.cleaned_data[name] for name in SERVER_FIELDS}
        if change:
            server = Server.objects.get(pk=obj.pk)
            services.update_server(server=server, by=request.user, **fields)  # type: ignore[arg-type]
            return
        made = services.create_server(by=request.user, **fields)  # type: ignore[arg-type]
        obj.pk = made.pk
        obj._state.adding = False

    def response_add(
        self, request: HttpRequest, obj: Any, post_url_continue: str | None = None
    ) -> HttpResponse:
        return redirect("admin:fleet_server_host_key", obj.pk)

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        """The activity log has it already."""

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        """The activity log has it already."""

    def host_key_confirm(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Step two of adding: the fingerprint, to be compared and confirmed by a person."""
        server = get_object_or_404(self.get_queryset(request), pk=pk)
        if request.method == "POST":
            form = HostKeyForm(request.POST)
            if form.is_valid():
                services.confirm_host_key(server=server, line=form.cleaned_data["line"], by=request.user)  # type: ignore[arg-type]
                pages = queue.ask("check_pages", server.pk)
                return redirect(pages[0] if pages else reverse("admin:fleet_server_change", args=[pk]))
            messages.error(request, _("This is no host key."))
        context = {
            **self.admin_site.each_context(request),
            "title": _("Confirm the host key of %(server)s") % {"server": server},
            "server": server,
            "opts": self.opts,
        }
        return TemplateResponse(request, "admin/fleet/server/host_key.html", context)

    def host_key_read(self, request: HttpRequest, pk: int) -> HttpResponse:
        """The part of that page which connects, so that the page itself is there at once."""
        server = get_object_or_404(self.get_queryset(request), pk=pk)
        context: dict[str, Any] = {"server": server}
        try:
            key = read_host_key(server.ssh_address, server.ssh_port)
        except RemoteError as error:
            context["error"] = error
        else:
            context |= {"key": key, "is_other": bool(server.host_key) and server.host_key != key.line}
        return TemplateResponse(request, "admin/fleet/server/_host_key.html", context)
