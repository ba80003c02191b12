"""Routes as operators make, change, try and remove them."""

import uuid
from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import IntegrityError, transaction
from django.utils import translation
from django.utils.translation import gettext as _

from accounts import push, sms
from accounts.alerts import telling
from accounts.alerts.models import Severity
from accounts.alerts.route_models import AlertRoute
from accounts.alerts.rules import Kind
from accounts.models import User
from accounts.services.activity import log_operation
from accounts.services.notices import notify
from accounts.services.people import NotAllowed
from derpmgmt.lib.lines import one_line
from derpmgmt.lib.refusals import Refusal


class RouteRefused(Refusal):
    """The route is not kept as it is typed, or cannot be tried."""

    code = "alert_route_refused"


def read_address(by: str, text: str) -> tuple[str, str]:
    """An address as it is kept, and as pages show it. Raises `RouteRefused`, `push.AddressRefused`, `sms.NumberRefused`."""
    if by == AlertRoute.By.STAFF:
        return "", ""
    if by == AlertRoute.By.PUSH:
        read = push.read_address(text)
        return read.url, read.label[:60]
    if by == AlertRoute.By.SMS:
        if not sms.is_configured():
            raise RouteRefused(_(sms.NOT_CONFIGURED), code="sms_not_configured", field="by")
        number = sms.read_number(text)
        return number, sms.mask(number)
    text = one_line(text).strip()
    try:
        validate_email(text)
    except ValidationError as error:
        raise RouteRefused(str(error.message), code="invalid", field="address") from error
    return text, text[:60]


@transaction.atomic
def save_route(*, by: User, route: AlertRoute, address: str = "", way: str = "", **fields: Any) -> AlertRoute:
    """Add a route (one without a primary key), or change one; an empty `address` or `way` leaves what there is.

    Raises `NotAllowed`, `RouteRefused`, and what `read_address` raises.
    """
    if not (by.is_staff and by.is_active):
        raise NotAllowed
    before = AlertRoute.objects.filter(pk=route.pk).first() if route.pk else None
    route.by = way or route.by
    for name, value in fields.items():
        setattr(route, name, value)
    if before is None:
        route.language = by.language
    if address or before is None or before.by != route.by:
        route.address, route.label = read_address(route.by, address)
    if set(route.kinds) - set(Kind.values) or route.severity not in Severity.values:
        raise RouteRefused(_("There is no such kind."), code="invalid", field="kinds")
    if (route.quiet_from is None) != (route.quiet_until is None):
        raise RouteRefused(_("Quiet hours have a beginning and an end."), code="invalid", field="quiet_until")
    try:
        with transaction.atomic():
            route.save()
    except IntegrityError as error:
        raise RouteRefused(_("There is a route of this name already."), code="taken", field="name") from error
    action = "alert_route.changed" if before else "alert_route.created"
    log_operation(by=by, action=action, target=route.name, way=route.by, address=route.label)
    return route


@transaction.atomic
def remove_route(*, by: User, route: AlertRoute) -> bool:
    """Remove a route with what it told; False when it is gone already. Raises `NotAllowed`."""
    if not (by.is_staff and by.is_active):
        raise NotAllowed
    gone = AlertRoute.objects.filter(pk=route.pk).delete()[0]
    if gone:
        log_operation(by=by, action="alert_route.removed", target=route.name, way=route.by)
    return bool(gone)


def try_route(*, by: User, route: AlertRoute) -> None:
    """Send a few words by a route, now; to every admin by a notice to whoever tries it.

    Raises `NotAllowed`, and what sending raises: `MailFailed`, `MailLimited`, `PushFailed`, `SmsFailed`.
    """
    if not (by.is_staff and by.is_active):
        raise NotAllowed
    log_operation(by=by, action="alert_route.tested", target=route.name, way=route.by)
    with translation.override(by.language if route.by == AlertRoute.By.STAFF else route.language):
        subject = _("[test] Alerts arrive here")
        lines = [
            _("%(user)s tries the alert route “%(route)s”.") % {"user": by.username, "route": route.name}
        ]
        if route.by == AlertRoute.By.STAFF:
            context = {"alert_subject": subject, "lines": lines}
            with transaction.atomic():
                notify(user=by, kind="alert", key=f"alert-test-{uuid.uuid4().hex}", context=context)
            return
        telling.hand(route, subject, lines, before_handing=lambda: None, number=f"test.{uuid.uuid4().hex}")
