"""The admin's buttons at alerts, their rules and routes."""

from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from accounts.acts import Act, Doing, Ticked
from accounts.alerts import routes, services
from accounts.alerts.forms import ResolveForm
from accounts.alerts.models import Alert, AlertRule
from accounts.alerts.route_models import AlertRoute


def _is_active(alert: Alert) -> bool:
    return alert.state == Alert.State.ACTIVE


def _over(alert: Alert) -> str:
    return "" if _is_active(alert) else _("This alert is not active any more.")


def _explain(count: int) -> list[str]:
    text = ngettext(
        "%(count)d alert counts as dealt with, and leaves the list of those that are open.",
        "%(count)d alerts count as dealt with, and leave the list of those that are open.",
        count,
    )
    return [
        text % {"count": count},
        _("While the cause lasts it is not raised again, unless it becomes worse."),
    ]


def _resolve(alert: Alert, doing: Doing) -> str | None:
    if not services.resolve_alert(alert=alert, by=doing.by, note=doing.data["note"]):
        return None
    return _("“%(alert)s” is resolved.") % {"alert": alert}


ALERT_ACTS = (
    Act(
        verb="resolve",
        label=gettext_lazy("Resolve"),
        fits=_is_active,
        otherwise=_over,
        explain=lambda alert: [
            _("“%(alert)s” counts as dealt with, and leaves the list of those that are open.")
            % {"alert": alert},
            _("While the cause lasts it is not raised again, unless it becomes worse."),
        ],
        form=ResolveForm,
        run=_resolve,
        ticked=Ticked(
            label=gettext_lazy("Resolve the selected alerts"),
            explain=_explain,
            done=lambda count: (
                ngettext("%(count)d alert is resolved.", "%(count)d alerts are resolved.", count)
                % {"count": count}
            ),
        ),
    ),
)


def _reset(row: AlertRule, doing: Doing) -> str | None:
    name = str(row)
    if not services.reset_rule(row=row, by=doing.by):
        return None
    return _("“%(rule)s” is as it was before operators changed it.") % {"rule": name}


RULE_ACTS = (
    Act(
        verb="reset",
        label=gettext_lazy("Set back"),
        explain=lambda row: [_("“%(rule)s” is again as it was before operators changed it.") % {"rule": row}],
        run=_reset,
        after=lambda _row: reverse("admin:accounts_alertrule_changelist"),
    ),
)


def _try(route: AlertRoute, doing: Doing) -> str:
    routes.try_route(by=doing.by, route=route)
    return _("“%(route)s” took a test message.") % {"route": route}


def _remove(route: AlertRoute, doing: Doing) -> str | None:
    name = str(route)
    return (
        _("“%(route)s” is removed.") % {"route": name}
        if routes.remove_route(by=doing.by, route=route)
        else None
    )


ROUTE_ACTS = (
    Act(
        verb="test",
        label=gettext_lazy("Send a test"),
        is_at_once=True,
        explain=lambda route: [
            _("A few words go by “%(route)s” now, and you read what the service says.") % {"route": route}
        ],
        run=_try,
    ),
    Act(
        verb="remove",
        label=gettext_lazy("Remove"),
        is_danger=True,
        explain=lambda route: [
            _("Nothing is told by “%(route)s” any more; what it told is forgotten.") % {"route": route}
        ],
        run=_remove,
        after=lambda _route: reverse("admin:accounts_alertroute_changelist"),
    ),
)
