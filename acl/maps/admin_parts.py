"""What maps add to the page that a customer has in the admin, whose room knows no maps."""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from accounts.acts import Link, buttons_of
from accounts.requests import staff_of
from accounts.tabs import Tab, link_to, show_facts, show_table
from acl.maps.admin_acts import CONFIG_ACTS, LIVE_URL_ACTS
from acl.maps.models import AclConfig, AclEvent, LiveUrl
from derpmgmt.lib.moments import moment
from serials.rentals.admin_parts import rental_of
from serials.rentals.models import Rental


def tabs(row: Any) -> Iterator[Tab]:
    """Answer to "row_tabs": a customer's maps."""
    if rental := rental_of(row):
        yield Tab("maps", _("Maps"), partial(_show, rental))


def _show(rental: Rental, request: HttpRequest) -> SafeString:
    return _now(request, rental) + _versions(request, rental) + _events(request, rental)


def _now(request: HttpRequest, rental: Rental) -> SafeString:
    """What the customer can take now, and the live URL, whose address is their secret."""
    staff = staff_of(request)
    config = AclConfig.objects.filter(rental=rental, is_active=True).select_related("rental__user").first()
    url = (
        LiveUrl.objects.filter(rental=rental, revoked_at=None)
        .defer("secret")
        .select_related("rental__user")
        .first()
    )
    shown = [
        (_("version"), link_to(config) if config else None),
        (_("valid until"), config.ends_at if config else None),
        (
            _("live URL"),
            link_to(url, timezone.localtime(url.created_at).strftime("%Y-%m-%d")) if url else None,
        ),
        (_("last fetched"), url.last_fetched_at if url else None),
        (_("program"), url.last_browser if url else None),
    ]
    buttons = [*buttons_of(CONFIG_ACTS, config, staff)] if config else []
    buttons += buttons_of(LIVE_URL_ACTS, url, staff) if url else []
    names = {True: _("Revoke the live URL")}
    lines = ((button.url, names.get(button.is_danger, button.label)) for button in buttons)
    return show_facts(
        _("Current map"), [*shown, (_("acts"), format_html_join(" · ", '<a href="{}">{}</a>', lines))]
    )


def _versions(request: HttpRequest, rental: Rental) -> SafeString:
    rows = AclConfig.objects.visible_to(request.user).filter(rental=rental).defer("derp_map")

    def cells(found: list[AclConfig]) -> Iterable[Iterable[Any]]:
        for config in found:
            is_active = config.is_active and config.ends_at > timezone.now()
            state = (
                format_html('<span class="panel-state is-green">{}</span>', _("active")) if is_active else ""
            )
            yield (
                link_to(config),
                state,
                config.created_at,
                config.ends_at,
                _(config.reason) if config.reason else "",
            )

    headings = [_("version"), _("state"), _("made"), _("valid until"), _("reason")]
    return show_table(request, _("Versions"), rows, headings, cells, page="versions")


def _events(request: HttpRequest, rental: Rental) -> SafeString:
    rows = AclEvent.objects.visible_to(request.user).filter(rental=rental).select_related("by")

    def cells(found: list[AclEvent]) -> Iterable[Iterable[Any]]:
        for event in found:
            yield (
                link_to(event, moment(event.at)), event.get_kind_display(),
                f"v{event.version}" if event.version else "", event.file_format, event.count,
                event.by, " · ".join(filter(None, [event.ip, event.place])), event.reason_text,
            )  # fmt: skip

    headings = [
        _("time"), _("kind"), _("version"), _("format"), _("times"), _("by"), _("IP address"), _("reason"),
    ]  # fmt: skip
    links = [
        Link(_("Region IDs"), f"{reverse('admin:acl_mapregion_changelist')}?rental__id__exact={rental.pk}")
    ]
    return show_table(request, _("What happened to maps"), rows, headings, cells, links=links)
