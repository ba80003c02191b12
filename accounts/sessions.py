"""Sessions in the database as Django keeps them; each page of whoever is signed in reads one, by SQL that is made once."""

from django.contrib.sessions.backends import db
from django.contrib.sessions.models import Session
from django.utils import timezone

from derpmgmt.lib.prepared import Prepared

_READ = Prepared(lambda key, now: Session.objects.filter(session_key=key, expire_date__gt=now))


class SessionStore(db.SessionStore):
    """As Django's."""

    def _get_session_from_db(self) -> Session | None:
        found = _READ.read(key=self.session_key or "", now=timezone.now())
        if not found:
            self._session_key = None  # a key that somebody made up is not taken over
            return None
        session: Session = found[0]
        return session
