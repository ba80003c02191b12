"""Traffic on the pages of customers and servers in the admin: a tab, a piece of the head, and the months as a file."""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils import timezone
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from accounts.acts import Link
from accounts.models import User
from accounts.tabs import Said, Tab, link_to, show_facts, show_table
from containers.metering import next_month
from containers.models import Relay, TrafficMonth, TrafficServerMonth
from containers.services.traffic_files import csv_lines
from containers.services.usage import Flow, read_relays, read_server, read_usage
from fleet.models import Server
from serials.rentals.admin_parts import rental_of
from serials.rentals.models import Rental, TrafficGrant
from serials.rentals.services import current_span
from serials.rentals.wording import rate, traffic


def says(row: Any) -> Iterator[Said]:
    """Answer to "row_says": what flowed through a server's relays this month."""
    if isinstance(row, Server) and (flow := read_server(server=row, now=timezone.now())).bytes:
        yield Said(_("%(size)s of traffic this month") % {"size": traffic(flow.bytes)})


def tabs(row: Any) -> Iterator[Tab]:
    """Answer to "row_tabs": a customer's traffic, or a server's, by relay and month."""
    if isinstance(row, User) and (rental := rental_of(row)):
        yield Tab("traffic", _("Traffic"), partial(_customers, rental))
    elif isinstance(row, Server):
        yield Tab("traffic", _("Traffic"), partial(_servers, row))


def show_rate(speed: float | None) -> str:
    """A rate, – where none is known."""
    return "–" if speed is None else rate(speed)


def _flow_facts(flow: Flow) -> list[tuple[Any, Any]]:
    return [
        (_("up"), traffic(flow.up_bytes)),
        (_("down"), traffic(flow.down_bytes)),
        (_("up now"), show_rate(flow.up_rate)),
        (_("down now"), show_rate(flow.down_rate)),
    ]


def _months(request: HttpRequest, **wanted: Any) -> QuerySet[TrafficMonth]:
    rows = TrafficMonth.objects.visible_to(request.user).filter(**wanted)
    return rows.select_related("relay__server", "rental__user").defer(
        *(f"relay__{name}" for name in Relay.SECRETS)
    )


def _sizes(row: Any) -> tuple[str, str, str]:
    return traffic(row.up_bytes), traffic(row.down_bytes), traffic(row.up_bytes + row.down_bytes)


def _file(**wanted: int) -> Link:
    ((name, pk),) = wanted.items()
    return Link(_("Download as CSV"), f"{reverse('admin:containers_relay_traffic')}?{name}={pk}")


def _customers(rental: Rental, request: HttpRequest) -> SafeString:
    now = timezone.now()
    usage = read_usage(rental=rental, span=current_span(rental, now), now=now)
    facts = [(_("month from"), f"{usage.begins_on:%Y-%m-%d}"), *_flow_facts(usage.flow)]
    if usage.quota_bytes is not None:
        facts += [(_("allowance"), traffic(usage.quota_bytes)), (_("left"), traffic(usage.left_bytes or 0))]
    facts.append((_("counted anew on"), f"{usage.ends_on:%Y-%m-%d}"))

    def cells(found: list[TrafficMonth]) -> Iterable[Iterable[Any]]:
        for row in found:
            relay = row.relay
            yield (
                f"{row.begins_on:%Y-%m-%d}", link_to(relay, f"#{relay.pk} · {relay.derp_port}"),
                link_to(relay.server, relay.server.name), *_sizes(row),
            )  # fmt: skip

    def grants(found: list[TrafficGrant]) -> Iterable[Iterable[Any]]:
        for row in found:
            by = link_to(row.by, tab="log") if row.by else ""
            yield row.at, traffic(row.size_bytes), by, row.note or row.redemption or ""

    headings = [_("month from"), _("relay"), _("server"), _("up"), _("down"), _("together")]
    rows = _months(request, rental=rental).order_by("-begins_on", "relay")
    added = (
        TrafficGrant.objects.visible_to(request.user).filter(rental=rental).select_related("by", "redemption")
    )
    return (
        show_facts(_("This month"), facts)
        + show_table(
            request, _("Relays by month"), rows, headings, cells, links=[_file(user=rental.user_id)]
        )
        + show_table(
            request, _("Added traffic"), added.order_by("-pk"), [_("time"), _("traffic"), _("by"), _("note")], grants,
            page="added",
        )
    )  # fmt: skip


def show_relay(relay: Relay, request: HttpRequest) -> SafeString:
    """What flowed through one relay, by month."""
    flow = read_relays({relay.pk: relay.rental}, timezone.now()).get(relay.pk, Flow())

    def cells(found: list[TrafficMonth]) -> Iterable[Iterable[Any]]:
        for row in found:
            yield f"{row.begins_on:%Y-%m-%d}", *_sizes(row)

    rows = _months(request, relay=relay).order_by("-begins_on")
    headings = [_("month from"), _("up"), _("down"), _("together")]
    return show_facts(_("This month"), _flow_facts(flow)) + show_table(
        request, _("Months"), rows, headings, cells
    )


def _servers(server: Server, request: HttpRequest) -> SafeString:
    flow = read_server(server=server, now=timezone.now())

    def months(found: list[TrafficServerMonth]) -> Iterable[Iterable[Any]]:
        for row in found:
            yield f"{row.begins_on:%Y-%m-%d}", *_sizes(row)

    def relays(found: list[TrafficMonth]) -> Iterable[Iterable[Any]]:
        for row in found:
            relay = row.relay
            yield (
                f"{row.begins_on:%Y-%m-%d}", link_to(relay, f"#{relay.pk} · {relay.derp_port}"),
                link_to(row.rental.user, tab="traffic"), *_sizes(row),
            )  # fmt: skip

    sizes = [_("up"), _("down"), _("together")]
    facts, limit = _flow_facts(flow), server.traffic_limit_bytes
    if limit is not None:
        facts += [(_("allowance"), traffic(limit)), (_("left"), traffic(max(limit - flow.bytes, 0)))]
        if day := server.traffic_runs_out_on:
            facts.append((_("traffic runs out on"), f"{day:%Y-%m-%d}"))
    anew = next_month(server.traffic_reset_day, timezone.localdate())
    facts.append((_("counted anew on"), f"{anew:%Y-%m-%d}"))
    own = TrafficServerMonth.objects.visible_to(request.user).filter(server=server).order_by("-begins_on")
    rows = _months(request, relay__server=server).order_by("-begins_on", "relay")
    return (
        show_facts(_("This month"), facts)
        + show_table(request, _("Months"), own, [_("month from"), *sizes], months)
        + show_table(
            request, _("Relays by month"), rows, [_("month from"), _("relay"), _("customer"), *sizes], relays,
            page="relays", links=[_file(server=server.pk)], note=_("Customers' months begin on days of their own."),
        )
    )  # fmt: skip


def months_as_csv(request: HttpRequest) -> HttpResponse | StreamingHttpResponse:
    """The months of a customer's relays (`user`), a server's (`server`) or all, as a file; bytes are whole numbers."""
    wanted: dict[str, Any] = {}
    for name, model, field in (("user", User, "rental__user"), ("server", Server, "relay__server")):
        if given := request.GET.get(name):
            pk = int(given) if given.isascii() and given.isdecimal() and len(given) < 19 else 0
            wanted[field] = get_object_or_404(model.objects.visible_to(request.user), pk=pk)
    rows = TrafficMonth.objects.visible_to(request.user).filter(**wanted).order_by("begins_on", "relay")

    name = f"traffic-{timezone.localdate():%Y%m%d}.csv"
    return StreamingHttpResponse(
        csv_lines(rows),
        content_type="text/csv; charset=utf-8",
        headers={
            "Content-Disposition": f'attachment; filename="{name}"',
            "Cache-Control": "private, no-store",
        },
    )
