"""What relays and gates add to the pages that a customer and a server have in the admin, whose rooms know neither."""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from django.db.models import Count, Q
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from accounts.acts import Link
from accounts.alerts.admin_parts import show_alerts
from accounts.models import User
from accounts.tabs import Said, Tab, link_to, show_charts, show_facts, show_table
from containers.allowance_words import limits_in_words
from containers.graphs import RELAY_GRAPHS
from containers.habit_parts import RATE
from containers.models import Deployment, Gate, Relay, RelayQuerySet, ServerCheck
from containers.services import gates
from containers.services.leaving import Leaving, foresee_leaving, outcome_sentences
from containers.state_badges import gate_state, relay_state, state_badge, test_words
from containers.steps import format_seconds, step_name
from containers.ticks import Day, relay_days, server_day
from containers.traffic_graphs import TITLE
from derpmgmt.lib.jobs import JobRecord
from fleet.models import Server
from serials.rentals.admin_parts import rental_of
from serials.rentals.models import Rental


def links(row: Any) -> Iterator[Link]:
    """Answer to "row_links": a server's checks, and its gate where relays need it and it does not run."""
    if not isinstance(row, Server) or row.status == Server.Status.RETIRED:
        return
    if row.status == Server.Status.NEW:
        yield Link(_("Checks"), check_page(row.pk))
    gate = Gate.objects.defer("secret").filter(server=row.pk).exclude(status=Gate.Status.RUNNING).first()
    if gate and gates.is_wanted(row.pk):
        yield Link(_("Try the gate again"), reverse("admin:containers_gate_act", args=[gate.pk, "retry"]))


def check_page(server_pk: int) -> str:
    """The address of the page that follows a server's checks."""
    return reverse("admin:containers_server_check", args=[server_pk])


def check_pages(server_pk: int) -> Iterator[str]:
    """Answer to "check_pages": where to go once a server's host key is confirmed."""
    yield check_page(server_pk)


def says(row: Any) -> Iterator[Said]:
    """Answer to "row_says": how many of a customer's relays carry packets, and how full a server is."""
    if isinstance(row, User) and (rental := rental_of(row)):
        standing = Relay.objects.wanted().filter(rental=rental)
        of = standing.aggregate(
            all=Count("pk"), carrying=Count("pk", filter=Q(pk__in=standing.carrying().values("pk")))
        )
        if of["all"]:
            text = ngettext(
                "%(carrying)d of %(count)d relay running",
                "%(carrying)d of %(count)d relays running",
                of["all"],
            )
            yield Said(text % {"carrying": of["carrying"], "count": of["all"]})
    elif isinstance(row, Server):
        count = Relay.objects.live().filter(server=row).count()
        yield Said(_("%(relays)d of %(capacity)d relays") % {"relays": count, "capacity": row.capacity})


def tabs(row: Any) -> Iterator[Tab]:
    """Answer to "row_tabs": a customer's relays; a server's relays and what was done on it."""
    if isinstance(row, User) and (rental := rental_of(row)):
        yield Tab("relays", _("Relays"), partial(_customers_relays, rental))
        yield Tab("graphs", _("Graphs"), partial(_customers_graphs, rental))
        yield Tab("alerts", _("Alerts"), partial(show_alerts, customer_pk=row.pk))
    elif isinstance(row, Server):
        yield Tab("relays", _("Relays"), partial(_servers_relays, row))
        yield Tab("checks", _("Checks"), partial(_servers_checks, row))
        if row.status != Server.Status.RETIRED:
            yield Tab("leaving", _("Draining"), partial(_leaving, row))


def _relays(request: HttpRequest) -> RelayQuerySet:
    rows = Relay.objects.visible_to(request.user)
    return rows.select_related("server", "rental__user", "last_health").defer(*Relay.SECRETS)


def _customers_graphs(rental: Rental, request: HttpRequest) -> SafeString:
    """The customer's month, what flows through each of their relays, and how many devices hold a connection to it."""
    charts = [
        (
            f"{relay} · {RELAY_GRAPHS[name].title}",
            reverse("admin:containers_relay_graph", args=[relay.pk, name]),
        )
        for relay in _relays(request).live().filter(rental=rental)
        for name in ("rate", "connections")
    ]
    month = (TITLE, reverse("admin:containers_rental_graph", args=[rental.pk]))
    rate = (RATE, reverse("admin:containers_customer_rate", args=[rental.user_id]))
    return show_charts(request, [month, rate, *charts], tab="graphs")


def _day(day: Day) -> SafeString:
    return render_to_string("containers/_day.html", {"day": day})


def _customers_relays(rental: Rental, request: HttpRequest) -> SafeString:
    own = _relays(request).filter(rental=rental)

    def standing(found: list[Relay]) -> Iterable[Iterable[Any]]:
        days = relay_days({relay.pk: relay.last_health_id for relay in found}, timezone.now())
        for relay in found:
            place = relay.slot or (_("retiring") if relay.retiring_since else "")
            yield (
                link_to(relay, f"#{relay.pk} · {relay.derp_port}"), relay_state(relay), link_to(relay.server, relay.server.name),
                place, test_words(relay.last_health), _day(days[relay.pk]), relay.created_at,
            )  # fmt: skip

    def gone(found: list[Relay]) -> Iterable[Iterable[Any]]:
        for relay in found:
            yield (
                link_to(relay, f"#{relay.pk} · {relay.derp_port}"), link_to(relay.server, relay.server.name),
                relay.created_at, relay.released_at, relay.return_slot or "",
            )  # fmt: skip

    headings = [
        _("relay"), _("state"), _("server"), _("place"), _("last test"), _("tests of the last 24 hours"), _("created"),
    ]  # fmt: skip
    gone_headings = [_("relay"), _("server"), _("created"), _("released"), _("comes back to place")]
    released = own.filter(status=Relay.Status.RELEASED).order_by("-released_at", "-pk")
    limits: list[tuple[str, Any]] = [
        *limits_in_words(rental, timezone.now()),
        (_("traffic this month"), rental.get_traffic_state_display()),
        (_("stopped, traffic used up"), rental.stopped_at),
        (_("note on the limits"), rental.cap_note or None),
    ]
    return (
        show_facts(_("Limits"), limits)
        + show_table(request, _("Relays"), own.live().order_by("slot", "pk"), headings, standing)
        + show_table(request, _("Earlier relays"), released, gone_headings, gone, page="gone")
    )


def _servers_relays(server: Server, request: HttpRequest) -> SafeString:
    now = timezone.now()

    def cells(found: list[Relay]) -> Iterable[Iterable[Any]]:
        days = relay_days({relay.pk: relay.last_health_id for relay in found}, now)
        for relay in found:
            yield (
                link_to(relay, f"#{relay.pk} · {relay.derp_port}"),
                link_to(relay.rental.user, tab="relays") if relay.rental else _("throw-away"),
                relay_state(relay), test_words(relay.last_health), _day(days[relay.pk]), relay.created_at,
            )  # fmt: skip

    rows = _relays(request).live().filter(server=server).order_by("failing_since", "pk")
    headings = [
        _("relay"), _("customer"), _("state"), _("last test"), _("tests of the last 24 hours"), _("created"),
    ]  # fmt: skip
    day = _day(server_day(server.pk, now))
    return _gate(server) + show_table(request, _("Relays"), rows, headings, cells, note=day)


def _seconds(job: JobRecord) -> str:
    if job.started_at is None:
        return ""
    return format_seconds(((job.finished_at or timezone.now()) - job.started_at).total_seconds())


def _servers_checks(server: Server, request: HttpRequest) -> SafeString:
    visits = show_facts(
        _("Visits"),
        [
            (_("last contact"), server.last_contact_at),
            (_("last visit"), server.last_visit_at),
            (_("does not answer since"), server.silent_since),
            (_("unhealthy since"), server.unhealthy_since),
            (_("failed contacts in a row"), server.contact_failures or ""),
            (_("next contact not before"), server.next_contact_at),
            (_("busy with"), server.busy_by),
        ],
    )
    checks = ServerCheck.objects.visible_to(request.user).filter(server=server).defer("log").order_by("-pk")

    def checked(found: list[ServerCheck]) -> Iterable[Iterable[Any]]:
        for check in found:
            yield (
                link_to(check, f"#{check.pk}"),
                _job_state(check),
                check.created_at,
                _seconds(check),
                check.reason,
            )

    deployments = Deployment.objects.visible_to(request.user).filter(relay__server=server).defer("log")

    def deployed(found: list[Deployment]) -> Iterable[Iterable[Any]]:
        for row in found:
            yield (
                link_to(row, f"#{row.pk}"), _job_state(row), link_to(row.relay, f"#{row.relay_id} · {row.relay.derp_port}"),
                link_to(row.relay.rental.user, tab="relays") if row.relay.rental else _("throw-away"),
                step_name(row.step), row.created_at, _seconds(row), row.reason,
            )  # fmt: skip

    rows = deployments.select_related("relay__rental__user").defer(
        *(f"relay__{name}" for name in Relay.SECRETS)
    )
    return (
        visits
        + show_table(
            request, _("Server checks"), checks, ["#", _("state"), _("time"), _("took"), _("reason")], checked,
            links=[Link(_("Follow the newest check"), check_page(server.pk))],
        )
        + show_table(
            request, _("Deployments"), rows.order_by("-pk"),
            ["#", _("state"), _("relay"), _("customer"), _("step"), _("time"), _("took"), _("reason")],
            deployed, page="deployments",
        )
    )  # fmt: skip


def _leaving(server: Server, request: HttpRequest) -> SafeString:
    """What draining the server does, or would do, to whom."""
    found = foresee_leaving(server=server, now=timezone.now())

    def cells(rows: list[Leaving]) -> Iterable[Iterable[Any]]:
        for leaving in rows:
            relay = leaving.relay
            yield (
                link_to(relay, f"#{relay.pk} · {relay.derp_port}"),
                link_to(relay.rental.user, tab="relays") if relay.rental else _("throw-away"),
                relay_state(relay), _what_becomes(leaving),
                format_html("{} · {}", link_to(leaving.to), leaving.to.region.name) if leaving.to else "",
            )  # fmt: skip

    notes = [
        _("A server is removed once it holds no relay: what is listed here has to be gone first."),
        *outcome_sentences(found),
    ]
    note = format_html_join("", "<p>{}</p>", ((text,) for text in notes))
    headings = [_("relay"), _("customer"), _("state"), _("what becomes of it"), _("where")]
    title = _("Being drained") if server.status == Server.Status.DRAINING else _("What draining would do")
    # Those that have nowhere to go stand first: each is somebody's.
    return show_table(
        request, title, sorted(found, key=lambda one: not one.stays), headings, cells, note=note
    )


def _what_becomes(leaving: Leaving) -> str | SafeString:
    if leaving.stays:
        words = _("stays: no other server has room for it")
        return format_html('<span class="panel-state is-red">{}</span>', words)
    if leaving.to is None:
        return _("goes by itself")
    return _("moves") if leaving.obstacle is None else _("is moving already")


def _job_state(job: JobRecord) -> SafeString:
    return state_badge(job, "blue" if job.status == JobRecord.Status.RUNNING else "")


def _gate(server: Server) -> SafeString:
    gate = gates.with_relays(
        Gate.objects.select_related("server").defer("secret").filter(server=server.pk)
    ).first()
    found = {"gate": gate, "state": gate_state(gate), "failure": gates.failure_text(gate)} if gate else {}
    return render_to_string("admin/containers/_gate.html", found)
