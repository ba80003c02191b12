"""The ways besides e-mail by which people want to be told: they add, confirm, test and remove them themselves."""

import secrets
from datetime import timedelta

from django.db import IntegrityError, transaction
from django.db.models import F
from django.utils import timezone, translation
from django.utils.translation import gettext as _
from django.utils.translation import pgettext

from accounts import push, sms
from accounts.brand import current_brand
from accounts.models import Channel, User
from accounts.services.activity import log_operation
from derpmgmt.lib.crypto import keyed_hash
from derpmgmt.lib.refusals import Refusal

MOST = 5
CODE_LASTS = timedelta(minutes=10)
CODE_TRIES = 5


class ChannelRefused(Refusal):
    """The channel is not added, or the code is not right."""

    code = "channel_refused"


def add_push_channel(*, user: User, address: str) -> Channel:
    """Add a push service by its address; used from then on. Raises `push.AddressRefused`, `ChannelRefused`."""
    read = push.read_address(address)
    return _add(user, Channel.Kind.PUSH, read.url, read.label, is_confirmed=True)


def add_sms_channel(*, user: User, number: str) -> Channel:
    """Add a mobile number and send it a code, with which `confirm_sms_channel` takes it into use.

    Raises `sms.NumberRefused`, `sms.SmsFailed` (then nothing is added) and `ChannelRefused`.
    """
    digits = sms.read_number(number)
    code = f"{secrets.randbelow(1_000_000):06}"
    channel = _add(user, Channel.Kind.SMS, digits, sms.mask(digits), is_confirmed=False, code=code)
    try:
        sms.send_code(digits, code)
    except sms.SmsFailed:
        channel.delete()
        raise
    return channel


def _add(
    user: User, kind: Channel.Kind, address: str, label: str, *, is_confirmed: bool, code: str = ""
) -> Channel:
    now = timezone.now()
    try:
        with transaction.atomic():
            # Locked, so that two clicks never add one too many, and none comes after a closing.
            owner = User.objects.select_for_update().get(pk=user.pk)
            if owner.closing_at or owner.closed_at:
                raise ChannelRefused(_("This account is closed."))
            if Channel.objects.filter(user=user).count() >= MOST:
                raise ChannelRefused(_("You have %(count)d channels; remove one first.") % {"count": MOST})
            channel = Channel.objects.create(
                user=user,
                kind=kind,
                label=label[:60],
                address=address,
                address_hash=keyed_hash("channel", address),
                confirmed_at=now if is_confirmed else None,
                code_hash=keyed_hash("channel code", code) if code else "",
                code_ends_at=now + CODE_LASTS if code else None,
            )
            log_operation(by=user, action="channel.added", target=label, subject=user, kind=kind)
            return channel
    except IntegrityError as error:
        raise ChannelRefused(_("You have this channel already.")) from error


def confirm_sms_channel(*, channel: Channel, code: str) -> None:
    """Take a number into use whose owner has typed the code; nothing happens when it is in use already.

    Raises `ChannelRefused`; after `CODE_TRIES` no code is right.
    """
    now = timezone.now()
    if Channel.objects.filter(pk=channel.pk, confirmed_at__isnull=False).exists():
        return
    waiting = Channel.objects.filter(
        pk=channel.pk, confirmed_at=None, code_tries__lt=CODE_TRIES, code_ends_at__gt=now
    )
    # Counted before it is compared: however many come at once, only so many are looked at.
    if not waiting.update(code_tries=F("code_tries") + 1):
        raise ChannelRefused(_("The code has expired. Remove the number and add it again."))
    right = keyed_hash("channel code", code.strip())
    if not Channel.objects.filter(pk=channel.pk, code_hash=right).update(confirmed_at=now, code_hash=""):
        raise ChannelRefused(_("The code is not right."))
    log_operation(by=channel.user, action="channel.confirmed", target=channel, subject=channel.user)


def remove_channel(*, channel: Channel) -> None:
    """Remove the channel; what still waits to be sent by it is not sent."""
    log_operation(
        by=channel.user, action="channel.removed", target=channel, subject=channel.user, kind=channel.kind
    )
    channel.delete()


def send_test(*, channel: Channel) -> None:
    """Send a few words by a push channel, now. Raises `push.PushFailed`."""
    with translation.override(channel.user.language):
        push.send(
            channel.address,
            title=pgettext("channel", "Test"),
            text=_("This channel works: notices of %(name)s arrive here.") % {"name": current_brand().name},
        )
