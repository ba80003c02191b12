"""What operators write to one person."""

import uuid

from django.db import transaction
from django.utils.translation import gettext as _

from accounts.models import Notice, User
from accounts.services.activity import log_operation
from accounts.services.notices import NoticeRefused, notify
from accounts.services.people import NotAllowed
from derpmgmt.lib.lines import one_line


@transaction.atomic
def write_to(*, user: User, by: User, subject: str, text: str) -> list[Notice]:
    """Send `user` a message in plain text, by e-mail and by their own channels. Returns the notices.

    Raises `NotAllowed` for who is not staff, `NoticeRefused` where there is nothing to read, or nobody who may be told.
    """
    if not (by.is_staff and by.is_active):
        raise NotAllowed
    user = User.objects.select_for_update().get(pk=user.pk)
    if not user.is_active:
        raise NoticeRefused(_("The account is banned or closed."), field="user_id")
    subject, text = one_line(subject), text.strip()
    for name, value in (("subject", subject), ("text", text)):
        if not value:
            raise NoticeRefused(_("This is empty."), code="invalid", field=name)
    made = notify(
        user=user,
        kind="message",
        # Whatever is written twice is sent twice; a request that comes twice is not taken for two where it comes in.
        key=f"message-{uuid.uuid4()}",
        context={"mail_subject": subject, "mail_text": text},
    )
    log_operation(by=by, action="notice.written", target=subject, subject=user)
    return made
