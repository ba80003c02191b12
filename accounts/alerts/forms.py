"""What operators type about alerts: notes, rules, routes."""

from typing import Any

from django import forms
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts.acts import ActForm
from accounts.alerts.models import AlertRule
from accounts.alerts.route_models import AlertRoute
from accounts.alerts.routes import read_address
from accounts.alerts.rules import RULES, Kind, Rule
from derpmgmt.lib import queue
from derpmgmt.lib.lines import LineFormField
from derpmgmt.lib.refusals import Refusal


class ResolveForm(ActForm):
    """What was done about an alert."""

    note = LineFormField(
        label=gettext_lazy("Note"),
        max_length=300,
        help_text=gettext_lazy("What was done about it; operators read it."),
    )


def describe(rule: Rule) -> str:
    """What counts of a rule, in a line."""
    limits = [f"{limit:g}" for limit in (rule.warning, rule.critical) if limit is not None]
    seconds = _("after %(raise)d s, cleared after %(clear)d s") % {
        "raise": rule.pace.raise_after.total_seconds(),
        "clear": rule.pace.clear_after.total_seconds(),
    }
    return " · ".join(filter(None, [f"{' / '.join(limits)} {rule.unit}".strip() if limits else "", seconds]))


def in_unit(code: str, limit: float | None) -> str:
    """A limit of a rule with the unit of what that reads; – for none."""
    return "–" if limit is None else f"{limit:g} {RULES[code].unit if code in RULES else ''}".strip()


def server_choices() -> list[tuple[int, str]]:
    """All servers, and each by itself."""
    return [(0, _("all servers")), *queue.ask("alert_servers")]


class RuleForm(forms.ModelForm[AlertRule]):
    """What operators change of a rule."""

    rule = forms.ChoiceField(label=gettext_lazy("rule"))
    server = forms.TypedChoiceField(label=gettext_lazy("server"), coerce=int)

    class Meta:
        model = AlertRule
        fields = (
            "rule",
            "server",
            "is_on",
            "severity",
            "warning",
            "critical",
            "raise_seconds",
            "clear_seconds",
        )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # A rule that is changed keeps which one it is, and for which server.
        rule: Any = self.fields.get("rule")
        server: Any = self.fields.get("server")
        if rule and server:
            rule.choices = [(code, f"{each.title} ({describe(each)})") for code, each in RULES.items()]
            server.choices = server_choices()
        if self.instance.rule in RULES:
            fields: Any = self.fields
            for name in ("warning", "critical"):
                fields[name].help_text = RULES[self.instance.rule].unit


class RouteForm(forms.ModelForm[AlertRoute]):
    """A route. Its address goes in and never comes out."""

    target = forms.CharField(
        label=gettext_lazy("address"),
        required=False,
        max_length=500,
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
        help_text=gettext_lazy(
            "An e-mail address, a mobile number, or the address of a push service as it shows it (WeCom, DingTalk, Feishu, Bark, …). "
            "Empty = the one there is; for every admin none is needed."
        ),
    )
    kinds = forms.MultipleChoiceField(
        label=gettext_lazy("kinds"), choices=Kind.choices, required=False, widget=forms.CheckboxSelectMultiple
    )

    class Meta:
        model = AlertRoute
        fields = (
            "name", "by", "severity", "kinds", "quiet_from", "quiet_until", "digest_at", "position", "is_on",
        )  # fmt: skip

    def clean(self) -> dict[str, Any]:
        super().clean()
        data = self.cleaned_data
        if not self.errors and (data["target"] or not self.instance.pk or data["by"] != self.instance.by):
            try:
                read_address(data["by"], data["target"])
            except Refusal as refusal:
                self.add_error(refusal.field if refusal.field in self.fields else "target", str(refusal))
        if (data.get("quiet_from") is None) != (data.get("quiet_until") is None):
            self.add_error("quiet_until", _("Quiet hours have a beginning and an end."))
        return data
