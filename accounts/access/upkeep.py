"""What is over goes: nothing of the API itself is needed for that, which weighs on every process that imports it."""

from datetime import datetime, timedelta

from django.db.models import Q

from accounts.access.models import KEPT, ApiToken, KeptAnswer, SignUpCode

_DELETED_AFTER = timedelta(days=90)


def delete_ended_tokens(now: datetime) -> None:
    """Tokens that have ended go: those of signing in after a day, others, which their owner may look for, after three months; codes for new accounts once they count no more."""
    old = now - _DELETED_AFTER
    ApiToken.objects.filter(is_sign_in=True, expires_at__lt=now - timedelta(days=1)).delete()
    ApiToken.objects.filter(Q(expires_at__lt=old) | Q(revoked_at__lt=old)).delete()
    SignUpCode.objects.filter(ends_at__lt=now).delete()


def delete_kept_answers(now: datetime) -> None:
    """What is older than a day goes."""
    KeptAnswer.objects.filter(created_at__lt=now - KEPT).delete()
