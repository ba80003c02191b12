"""The admin's buttons at serial numbers."""

from collections.abc import Iterator

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from accounts.acts import Act, Doing, Shown, Ticked
from accounts.models import User
from serials.numbers import services
from serials.numbers.models import SerialBatch, SerialNumber


def _explain_recalls(count: int) -> Iterator[str]:
    text = ngettext(
        "%(count)d serial number can never be redeemed again; whoever has it is refused.",
        "%(count)d serial numbers can never be redeemed again; whoever has one is refused.",
        count,
    )
    yield text % {"count": count}


def _recall(serial: SerialNumber, doing: Doing) -> str:
    services.recall_serial(serial=serial, by=doing.by)
    return _("%(serial)s is recalled and can no longer be redeemed.") % {"serial": serial}


def _not_unused(serial: SerialNumber) -> str:
    is_recalled = serial.status == SerialNumber.Status.RECALLED
    return str(services.SerialRecalled() if is_recalled else services.SerialUsed())


def _reveal(serial: SerialNumber, doing: Doing) -> Shown:
    code = services.reveal_code(serial=serial, by=doing.by, ip=doing.ip)
    return Shown(code, _("That you saw it is written in the activity log."))


SERIAL_ACTS = (
    Act(
        verb="reveal",
        label=gettext_lazy("Show the code (logged)"),
        explain=lambda serial: [
            _("The whole code of %(serial)s is shown once, and the activity log says that you saw it.")
            % {"serial": serial}
        ],
        run=_reveal,
    ),
    Act(
        verb="recall",
        label=gettext_lazy("Recall"),
        is_danger=True,
        fits=lambda serial: serial.status == SerialNumber.Status.UNUSED,
        otherwise=_not_unused,
        explain=lambda serial: [
            _("%(serial)s can never be redeemed again; whoever has it is refused.") % {"serial": serial}
        ],
        run=_recall,
        ticked=Ticked(
            label=gettext_lazy("Recall the selected serial numbers"),
            explain=_explain_recalls,
            done=lambda count: (
                ngettext(
                    "%(count)d serial number is recalled.", "%(count)d serial numbers are recalled.", count
                )
                % {"count": count}
            ),
        ),
    ),
)


def _is_super(by: User, _batch: SerialBatch | None = None) -> bool:
    return by.is_superuser


def _explain_paid(count: int) -> Iterator[str]:
    text = ngettext(
        "The serial numbers of %(count)d batch can be redeemed, and downloads that were stopped go on.",
        "The serial numbers of %(count)d batches can be redeemed, and downloads that were stopped go on.",
        count,
    )
    yield text % {"count": count}


def _mark_paid(batch: SerialBatch, doing: Doing) -> str | None:
    if not services.mark_batch_paid(batch=batch, by=doing.by):
        return None
    return _("Batch %(batch)s is paid for.") % {"batch": batch}


def _explain_unpaid(count: int) -> Iterator[str]:
    text = ngettext(
        "No serial number of %(count)d batch can be redeemed until it is paid for, and who has redeemed one can download no map.",
        "No serial number of %(count)d batches can be redeemed until they are paid for, and who has redeemed one can download no map.",
        count,
    )
    yield text % {"count": count}
    yield _("Relays that run go on.")


def _mark_unpaid(batch: SerialBatch, doing: Doing) -> str | None:
    if not services.mark_batch_unpaid(batch=batch, by=doing.by):
        return None
    return _("Batch %(batch)s is not paid for.") % {"batch": batch}


BATCH_ACTS = (
    Act(
        verb="mark-paid",
        label=gettext_lazy("Mark as paid"),
        may=_is_super,
        fits=lambda batch: not batch.is_paid,
        otherwise=lambda batch: _("Batch %(batch)s is paid for already.") % {"batch": batch},
        explain=lambda batch: [
            _("The serial numbers of batch %(batch)s can be redeemed, and downloads that were stopped go on.")
            % {"batch": batch}
        ],
        run=_mark_paid,
        ticked=Ticked(
            label=gettext_lazy("Mark as paid"),
            explain=_explain_paid,
            done=lambda count: (
                ngettext("%(n)d batch marked as paid.", "%(n)d batches marked as paid.", count) % {"n": count}
            ),
            may=_is_super,
        ),
    ),
    Act(
        verb="mark-unpaid",
        label=gettext_lazy("Mark as unpaid"),
        is_danger=True,
        may=_is_super,
        fits=lambda batch: batch.is_paid,
        otherwise=lambda batch: _("Batch %(batch)s is not paid for as it is.") % {"batch": batch},
        explain=lambda batch: [
            _(
                "No serial number of batch %(batch)s can be redeemed until it is paid for, and who has redeemed one can download no map."
            )
            % {"batch": batch},
            _("Relays that run go on."),
        ],
        run=_mark_unpaid,
        ticked=Ticked(
            label=gettext_lazy("Mark as unpaid (stops redeeming and downloads)"),
            explain=_explain_unpaid,
            done=lambda count: (
                ngettext("%(n)d batch marked as unpaid.", "%(n)d batches marked as unpaid.", count)
                % {"n": count}
            ),
            may=_is_super,
        ),
    ),
)
