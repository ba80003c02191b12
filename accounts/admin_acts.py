"""The admin's buttons at accounts and notices."""

from collections.abc import Iterator

from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from accounts import services
from accounts.acts import Act, Doing, Ticked
from accounts.brand import sender
from accounts.forms import AdminCloseForm, BanForm
from accounts.models import Notice, PutOff, User
from accounts.sweeps import RETRY
from derpmgmt.lib import queue
from derpmgmt.lib.mail import send_test_mail


def _has_right(by: User, user: User) -> bool:
    return by.is_superuser or not user.is_staff


def _is_open(user: User) -> bool:
    return not (user.closing_at or user.closed_at)


def _explain_ban(user: User) -> Iterator[str]:
    yield _("%(user)s is signed out everywhere at once and cannot sign in again until the ban is lifted.") % {
        "user": user
    }
    yield from queue.ask("stops_with", user)
    yield _("The time of a rental goes on.")


def _explain_bans(count: int) -> Iterator[str]:
    text = ngettext(
        "%(count)d person is signed out everywhere at once and cannot sign in again until the ban is lifted.",
        "%(count)d people are signed out everywhere at once and cannot sign in again until the bans are lifted.",
        count,
    )
    yield text % {"count": count}
    yield _("Their relays stop; the time of their rentals goes on.")


def _ban(user: User, doing: Doing) -> str | None:
    stopped = queue.ask("stops_with", user)
    if not services.ban_user(user=user, by=doing.by, reason=doing.data["reason"]):
        return None
    return " ".join([_("%(user)s is banned; open sessions have ended.") % {"user": user}, *stopped])


def _explain_unban(user: User) -> Iterator[str]:
    yield _("%(user)s can sign in again, and the relays of a rental that still runs come back.") % {
        "user": user
    }


def _explain_unbans(count: int) -> Iterator[str]:
    text = ngettext(
        "%(count)d person can sign in again, and the relays of a rental that still runs come back.",
        "%(count)d people can sign in again, and the relays of rentals that still run come back.",
        count,
    )
    yield text % {"count": count}


def _unban(user: User, doing: Doing) -> str | None:
    if not services.unban_user(user=user, by=doing.by):
        return None
    return _("The ban of %(user)s is lifted.") % {"user": user}


def _explain_reset(user: User) -> Iterator[str]:
    yield _("Only do this when you are sure who asks.")
    yield _(
        "Every authenticator app, passkey and recovery code of %(user)s is removed. They are signed out everywhere and told by mail."
    ) % {"user": user}


def _reset_second_factor(user: User, doing: Doing) -> str | None:
    if not services.reset_second_factor(user=user, by=doing.by):
        return None
    return _("The second factor of %(user)s is removed; they are signed out everywhere and told by mail.") % {
        "user": user
    }


def _explain_closing(user: User) -> Iterator[str]:
    yield _("The account %(user)s is closed for good.") % {"user": user}
    yield _(
        "This cannot be undone. The person is signed out everywhere and told by a last mail; the maps are destroyed and the "
        "relays removed. E-mail address, user name, second factors and channels are deleted; the history stays, and is found "
        "by the account's number or by the address it had."
    )
    yield from map(str, services.closing_losses(user))


def _close(user: User, doing: Doing) -> str | None:
    name, reason = str(user), doing.data["reason"]
    if not services.close_account(user=user, by=doing.by, reason=reason, ip=doing.ip):
        return None
    return _("The account of %(user)s is being closed; they have been told by mail.") % {"user": name}


def _closed_already(user: User) -> str:
    if user.closed_at:
        return _("This account is closed already.")
    return _("This account is being closed already.") if user.closing_at else ""


USER_ACTS = (
    Act(
        verb="ban",
        label=gettext_lazy("Ban"),
        is_danger=True,
        may=lambda by, user: by.pk != user.pk and _has_right(by, user),
        fits=lambda user: _is_open(user) and not user.banned_at,
        otherwise=lambda user: (
            _("%(user)s is banned already.") % {"user": user} if user.banned_at else _closed_already(user)
        ),
        explain=_explain_ban,
        form=BanForm,
        run=_ban,
        ticked=Ticked(
            label=gettext_lazy("Ban the selected accounts"),
            explain=_explain_bans,
            done=lambda count: (
                ngettext("%(count)d account is banned.", "%(count)d accounts are banned.", count)
                % {"count": count}
            ),
        ),
    ),
    Act(
        verb="unban",
        label=gettext_lazy("Lift the ban"),
        may=_has_right,
        fits=lambda user: _is_open(user) and bool(user.banned_at),
        otherwise=lambda user: _closed_already(user) or _("%(user)s is not banned.") % {"user": user},
        explain=_explain_unban,
        run=_unban,
        ticked=Ticked(
            label=gettext_lazy("Lift the ban of the selected accounts"),
            explain=_explain_unbans,
            done=lambda count: (
                ngettext(
                    "The ban of %(count)d account is lifted.",
                    "The bans of %(count)d accounts are lifted.",
                    count,
                )
                % {"count": count}
            ),
        ),
    ),
    Act(
        verb="close",
        label=gettext_lazy("Close the account"),
        is_danger=True,
        may=lambda by, user: by.pk != user.pk and _has_right(by, user),
        fits=_is_open,
        otherwise=_closed_already,
        hindrances=lambda user: map(str, services.closing_reasons(user)),
        explain=_explain_closing,
        form=AdminCloseForm,
        run=_close,
    ),
    Act(
        verb="reset-second-factor",
        label=gettext_lazy("Reset the second factor"),
        is_danger=True,
        may=lambda by, _user: by.is_superuser,
        fits=lambda user: _is_open(user) and services.has_second_factor(user),
        otherwise=lambda user: _closed_already(user) or _("%(user)s has no second factor.") % {"user": user},
        explain=_explain_reset,
        run=_reset_second_factor,
    ),
)


def _explain_sending(count: int) -> Iterator[str]:
    text = ngettext(
        "%(count)d notice goes to its person once more, now.",
        "%(count)d notices go to their people once more, now.",
        count,
    )
    yield text % {"count": count}


def _send_again(notice: Notice, doing: Doing) -> str:
    services.send_again(notice=notice, by=doing.by)
    return _("“%(kind)s” is sent to %(user)s again.") % {"kind": notice.kind_text, "user": notice.user}


NOTICE_ACTS = (
    Act(
        verb="again",
        label=gettext_lazy("Send again"),
        fits=lambda notice: not services.why_not_again(notice),
        otherwise=lambda notice: str(services.why_not_again(notice)),
        explain=lambda notice: [
            _("“%(kind)s” goes to %(user)s once more, now.") % {"kind": notice.kind_text, "user": notice.user}
        ],
        run=_send_again,
        ticked=Ticked(
            label=gettext_lazy("Send the selected notices again"),
            explain=_explain_sending,
            done=lambda count: (
                ngettext("%(count)d notice is sent again.", "%(count)d notices are sent again.", count)
                % {"count": count}
            ),
            name=lambda notice: f"{notice.user} · {notice}",
        ),
    ),
)


def _test_mail(_row: None, doing: Doing) -> str:
    address = doing.by.email
    send_test_mail(address, sender=sender())
    return _("The mail server took a test mail to %(address)s.") % {"address": address}


NOTICE_LIST_ACTS = (
    Act(
        verb="mail-test",
        label=gettext_lazy("Send me a test mail"),
        is_at_once=True,
        explain=lambda _row: [_("A mail goes to your own address, and you read what the mail server says.")],
        run=_test_mail,
    ),
)


def _named(put_off: PutOff) -> dict[str, str]:
    return {"work": put_off.title, "row": put_off.name}


def _try_now(put_off: PutOff, doing: Doing) -> str | None:
    if not services.try_now(put_off=put_off, by=doing.by):
        return None
    return _("“%(work)s” is tried again now for %(row)s; reload in a moment.") % _named(put_off)


PUT_OFF_ACTS = (
    Act(
        verb="try-now",
        label=gettext_lazy("Try now"),
        fits=lambda put_off: RETRY.rests(put_off, timezone.now()),
        otherwise=lambda put_off: _("“%(work)s” has its turn for %(row)s already.") % _named(put_off),
        explain=lambda put_off: [
            _("“%(work)s” is tried again now for %(row)s, without waiting for its next turn.")
            % _named(put_off),
            _("Once it goes well it is no longer listed here; else this page says what went wrong."),
        ],
        run=_try_now,
    ),
)
