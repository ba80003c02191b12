"""What may go wrong with a host, in words a person can read."""

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

DETAIL_LIMIT = 500
"""Characters of a host's own words that an error keeps."""


class RemoteError(Exception):
    """A host did something wrong, or could not be asked.

    `code` is a short slug for programs, `str()` the sentence for people in the language active when it is read, `detail`
    the host's own words, shortened.
    """

    code = "remote"
    sentence: str | Promise = _("The server answered with an error.")

    def __init__(
        self, sentence: str | Promise = "", *, code: str = "", detail: str = "", **values: object
    ) -> None:
        super().__init__(code or self.code)
        self.sentence = sentence or self.sentence
        self.code = code or self.code
        self.detail = "".join(c if c.isprintable() else " " for c in detail).strip()[:DETAIL_LIMIT]
        self.values = values

    def __str__(self) -> str:
        return str(self.sentence) % self.values if self.values else str(self.sentence)


class Unreachable(RemoteError):
    """No connection could be made, or the one there was is gone. Codes: unreachable, refused, unresolved, not_ssh, lost."""

    code = "unreachable"
    sentence = _("The server cannot be reached.")


class TimedOut(RemoteError):
    """The host did not answer in time; the connection has been dropped."""

    code = "timed_out"
    sentence = _("The server did not answer in time.")


class HostKeyChanged(RemoteError):
    """The host does not hold the pinned key; nothing was sent to it. `pinned` and `presented` are fingerprints."""

    code = "host_key_changed"

    def __init__(self, host: str, pinned: str, presented: str) -> None:
        super().__init__(
            _("%(host)s shows another host key than the confirmed one: %(presented)s instead of %(pinned)s."),
            host=host,
            pinned=pinned,
            presented=presented,
        )
        self.pinned = pinned
        self.presented = presented


class AuthenticationFailed(RemoteError):
    """The host refused the key or password (authentication_failed), or the stored key is unusable (bad_key)."""

    code = "authentication_failed"
    sentence = _("The server refused the sign-in: user, key or password is wrong.")


class CommandFailed(RemoteError):
    """A command ended with an error. Codes: command_failed, output_too_long, session_refused."""

    code = "command_failed"
    sentence = _("A command failed on the server.")


class ForwardingRefused(RemoteError):
    """The host did not open a channel to a unix socket. OpenSSH says the same when forwarding is forbidden, when the
    socket is absent and when nobody listens on it, so the reason must be found out separately."""

    code = "forwarding_refused"
    sentence = _("The server refused to forward a connection to a socket.")
