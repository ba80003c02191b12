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
    return _("The alert is resolved.")


ALERT_ACTS = (
    Act(
        verb="resolve",
        label=gettext_lazy("Resolve"),
        fits=_is_active,
        otherwise=_over,
        explain=lambda _alert: _explain(1),
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
    return _("The rule is as it was before.") if services.reset_rule(row=row, by=doing.by) else None


RULE_ACTS = (
    Act(
        verb="reset",
        label=gettext_lazy("Set back"),
        explain=lambda _row: [_("The rule is as it was before operators changed it.")],
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
        explain=lambda _route: [_("A few words go by this route now, and you read what the service says.")],
        run=_try,
    ),
    Act(
        verb="remove",
        label=gettext_lazy("Remove"),
        is_danger=True,
        explain=lambda _route: [_("Nothing is told by it any more; what it told is forgotten.")],
        run=_remove,
        after=lambda _route: reverse("admin:accounts_alertroute_changelist"),
    ),
)
