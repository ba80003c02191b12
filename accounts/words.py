"""What people call what happens to people's accounts."""

from django.utils.translation import gettext_lazy as _
from django.utils.translation import gettext_noop

from accounts.wordlist import Kind, declare

# Django's own word after the name of a field; Chinese has a colon of its own.
gettext_noop(":")

declare(
    actions={
        "user.created": _("Account created"),
        "user.signed_up": _("Signed up"),
        "user.signed_in": _("Signed in"),
        "user.signed_out": _("Signed out"),
        "user.sign_in_failed": _("Sign-in failed"),
        "user.changed": _("Account changed"),
        "user.banned": _("Account banned"),
        "user.unbanned": _("Ban lifted"),
        "user.closing": _("The account was closed"),
        "user.closing_refused": _("Account could not be closed"),
        "user.closed": _("Closing of the account finished"),
        "email.confirmed": _("E-mail address confirmed"),
        "email.changed": _("E-mail address changed"),
        "password.changed": _("Password changed"),
        "password.reset": _("Password reset"),
        "second_factor.added": _("Second factor added"),
        "second_factor.removed": _("Second factor removed"),
        "second_factor.renewed": _("Recovery codes renewed"),
        "second_factor.reset": _("Second factors reset by an operator"),
        "channel.added": _("Notice channel added"),
        "channel.confirmed": _("Notice channel confirmed"),
        "channel.removed": _("Notice channel removed"),
        "notice.sent_again": _("Notice sent again"),
        "notice.written": _("Message sent by an operator"),
        "token.created": _("API token created"),
        "token.revoked": _("API token revoked"),
        "brand.changed": _("Brand changed"),
        "work.retried": _("Work that was put off tried again"),
        "alert.resolved": _("Alert resolved"),
        "alert.sent": _("Alert told by a program"),
        "alert_rule.changed": _("Alert rule changed"),
        "alert_rule.reset": _("Alert rule set back"),
        "alert_route.created": _("Alert route added"),
        "alert_route.changed": _("Alert route changed"),
        "alert_route.removed": _("Alert route removed"),
        "alert_route.tested": _("Alert route tested"),
    },
    notices={
        "security": Kind(_("About the account's safety"), is_farewell=True),
        "message": Kind(_("Message of an operator")),
        "alert": Kind(_("Alert"), by_sms=True),
        "second_factor_reset": Kind(_("Two-factor authentication was reset"), is_farewell=True),
        "account_closed": Kind(_("The account is closed"), is_farewell=True),
    },
)
