"""Relays and gates, for operators."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from django.contrib import admin
from django.db.models import Case, SmallIntegerField, When
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404
from django.template.loader import render_to_string
from django.urls import path, reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts.admin_base import ReadOnlyAdmin
from accounts.alerts.admin_parts import show_alerts
from accounts.models import OperationLog
from accounts.tabs import Said, Tab, TabsMixin, link_to, show_table
from containers.admin_acts import GATE_ACTS, RELAY_ACTS
from containers.allowance_words import limits_in_words
from containers.derp.probe import REMEDIES
from containers.graphs import RELAY_GRAPHS, TEST_GRAPHS, draw_tests
from containers.habit_parts import customer_rate
from containers.job_admin import DeploymentAdmin as DeploymentAdmin
from containers.job_admin import ServerCheckAdmin as ServerCheckAdmin
from containers.models import Gate, Relay
from containers.server_admin import ServerAdmin as ServerAdmin
from containers.services import gates
from containers.services.samples import RELAYS
from containers.state_badges import gate_state, relay_state, relay_words, test_words
from containers.ticks import relay_days
from containers.traffic_graphs import TITLE, relay_month, rental_month
from containers.traffic_parts import months_as_csv, show_relay
from derpmgmt.lib.charts import answer
from derpmgmt.lib.moments import exact
from fleet.graph_pages import Drawn, GraphsMixin
from fleet.server_log import CLOCKS
from serials.rentals.models import Rental

# What does not work stands first, what was removed last; by the relay's own columns, of which there are many rows.
WORST_FIRST = Case(
    When(status=Relay.Status.RELEASED, then=9),
    When(status=Relay.Status.FAILED, then=0),
    When(failing_since__isnull=False, then=1),
    When(status=Relay.Status.RUNNING, then=3),
    default=2,
    output_field=SmallIntegerField(),
)


def _show_alerts(relay: Relay, request: HttpRequest) -> SafeString:
    page = reverse("admin:containers_relay_change", args=[relay.pk])
    return show_alerts(request, server_pk=relay.server_id, page=page)


def _show_log(relay: Relay, request: HttpRequest) -> SafeString:
    """What was done with a relay; lines name it by its number or by its server and port, which another one may have had before."""
    rows = OperationLog.objects.visible_to(request.user).filter(
        action__startswith="relay.",
        target__in=[f"#{relay.pk}", str(relay)],
        at__gte=relay.created_at - CLOCKS,
    )
    if relay.released_at:
        rows = rows.filter(at__lte=relay.released_at + CLOCKS)

    def cells(found: list[OperationLog]) -> Iterator[tuple[Any, ...]]:
        for entry in found:
            actor = link_to(entry.actor, tab="log") if entry.actor else ""
            yield entry.at, link_to(entry, entry.action_text), actor, entry.detail.get("reason", "")

    headings = [_("time"), _("action"), _("who"), _("reason")]
    return show_table(request, _("Activity log"), rows.select_related("actor"), headings, cells)


@admin.register(Relay)
class RelayAdmin(GraphsMixin, TabsMixin, ReadOnlyAdmin):
    """Relays of all customers."""

    form_tab = ("relay", gettext_lazy("Relay"))
    series, graphs = RELAYS, RELAY_GRAPHS

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
    acts = RELAY_ACTS

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        """Also by why the last test failed, which is no filter of its own: its table is long."""
        return lookup == "last_health__cause__exact" or super().lookup_allowed(lookup, value, request)

    def get_ordering(self, request: HttpRequest) -> Any:
        return (WORST_FIRST, "-pk")

    fields = (
        "state",
        "customer",
        "server_link",
        "slot",
        "limits",
        "traffic_state",
        "stopped_at",
        "cap_note",
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

    def own_says(self, row: Relay) -> Iterator[Said]:
        yield Said(*relay_words(row))
        yield Said(str(row.rental.user) if row.rental else _("throw-away"))

    def own_tabs(self, row: Relay) -> Iterator[Tab]:
        yield self.graphs_tab(row)
        if row.rental_id:
            yield Tab("traffic", _("Traffic"), partial(show_relay, row))
        yield Tab("alerts", _("Alerts"), partial(_show_alerts, row))
        yield Tab("log", _("Activity log"), partial(_show_log, row))

    def more_graphs(self, row: Relay) -> Mapping[str, Drawn]:
        return {
            "traffic": (TITLE, partial(relay_month, row)),
            **{name: (graph.title, partial(draw_tests, row, name)) for name, graph in TEST_GRAPHS.items()},
        }

    def get_urls(self) -> list[Any]:
        def staff(view: Callable[..., HttpResponse | StreamingHttpResponse]) -> Any:
            return self.admin_site.admin_view(view)

        return [
            path("traffic.csv", staff(months_as_csv), name="containers_relay_traffic"),
            path("rental/<int:pk>/graph/", staff(self.rental_graph), name="containers_rental_graph"),
            path("customers/<int:pk>/rate/", staff(customer_rate), name="containers_customer_rate"),
            *super().get_urls(),
        ]

    def rental_graph(self, request: HttpRequest, pk: int) -> HttpResponse:
        """The figures of a customer's month, as JSON or CSV."""
        rental = get_object_or_404(Rental.objects.visible_to(request.user), pk=pk)
        return answer(request, f"traffic-{rental.user_id}", partial(rental_month, rental))

    @admin.display(description=gettext_lazy("relay"), ordering="pk")
    def relay(self, row: Relay) -> str:
        return f"#{row.pk} · {row.server.address}:{row.derp_port}"

    @admin.display(description=gettext_lazy("state"), ordering=WORST_FIRST)
    def state(self, row: Relay) -> SafeString:
        return relay_state(row)

    @admin.display(description=gettext_lazy("tests of the last 24 hours"))
    def day(self, row: Relay) -> str:
        return render_to_string(
            "containers/_day.html", {"day": relay_days({row.pk: row.last_health_id}, timezone.now())[row.pk]}
        )

    @admin.display(description=gettext_lazy("what to do"))
    def remedy(self, row: Relay) -> str:
        return str(REMEDIES.get(row.last_health.cause, "–")) if row.last_health else "–"

    @admin.display(description=gettext_lazy("customer"))
    def customer(self, row: Relay) -> str | SafeString:
        if row.rental is None:
            return _("throw-away")
        return link_to(row.rental.user, tab="relays")

    @admin.display(description=gettext_lazy("server"), ordering="server__name")
    def server_link(self, row: Relay) -> SafeString:
        return link_to(row.server)

    @admin.display(description=gettext_lazy("last test"))
    def tested(self, row: Relay) -> str | SafeString:
        return test_words(row.last_health)

    @admin.display(description=gettext_lazy("limits"))
    def limits(self, row: Relay) -> str | SafeString:
        """What counts for it, and where that was said."""
        if row.rental is None:
            return "–"
        shown = limits_in_words(row.rental, timezone.now(), row)
        return format_html_join(SafeString("<br>"), "{}: {}", shown)

    @admin.display(description=gettext_lazy("deployments"))
    def history(self, row: Relay) -> SafeString:
        return format_html_join(
            SafeString("<br>"),
            '<a href="{}">#{}</a> {} {} {}',
            (
                (
                    reverse("admin:containers_deployment_change", args=[item.pk]),
                    item.pk,
                    exact(item.created_at),
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
        text = _("changes not delivered since %(since)s") % {"since": exact(row.list_changed_at)}
        return format_html('<span class="panel-state is-red">{}</span>', text)
