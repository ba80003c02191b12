"""What a sweep put off, tried again because somebody asks for it."""

from django.db import transaction
from django.utils import timezone

from accounts.models import PutOff, User
from accounts.services.activity import log_operation
from accounts.services.people import NotAllowed
from derpmgmt.lib import queue


@transaction.atomic
def try_now(*, put_off: PutOff, by: User) -> bool:
    """Have it tried at once; False when it is done meanwhile, or its turn has come anyway. Raises `NotAllowed` for who is not staff.

    Announces `retry_asked`; where that bell is lost, the next sweep tries it.
    """
    if not (by.is_staff and by.is_active):
        raise NotAllowed
    now = timezone.now()
    if not PutOff.objects.filter(pk=put_off.pk, try_after__gt=now).update(try_after=now):
        return False
    log_operation(by=by, action="work.retried", target=f"{put_off.work} #{put_off.row}")
    queue.announce("retry_asked", put_off.pk)
    return True
