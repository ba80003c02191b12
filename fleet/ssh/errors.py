"""What may go wrong with a host, in words a person can read."""

from typing import Any

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _
from django.utils.translation import gettext_noop

from derpmgmt.lib.problems import declare, sentence_of
from derpmgmt.lib.refusals import Refusal

DETAIL_LIMIT = 500
"""Characters of a host's own words that an error keeps."""

SENTENCES: dict[str, str | Promise] = {
    "remote": _("The server answered with an error."),
    # No connection, or none any more.
    "unreachable": _("The server cannot be reached."),
    "unresolved": _("The name %(host)s is unknown."),
    "refused": _("%(host)s refuses connections on port %(port)s: no SSH server listens there."),
    "no_route": _("%(host)s cannot be reached."),
    "timed_out": _("The server did not answer in time."),
    "silent": _("%(host)s does not answer on port %(port)s."),
    "lost": _("The connection to the server was lost."),
    # It connects, and no SSH comes of it.
    "not_ssh": _("What answers on port %(port)s of %(host)s is no SSH server."),
    "closed": _(
        "%(host)s closes connections on port %(port)s without a word: a firewall, a list of banned addresses or a proxy "
        "may turn the panel away."
    ),
    "turned_away": _(
        "The SSH server of %(host)s turns the panel away for the moment: too many connections are being opened, or too "
        "many sign-ins failed (MaxStartups, PerSourcePenalties)."
    ),
    "greeting": _("No SSH connection to %(host)s on port %(port)s: the greeting failed."),
    "no_common_version": _("%(host)s speaks only the old version 1 of SSH."),
    "no_common_kex": _("The SSH server of %(host)s and the panel have no key exchange method in common."),
    "no_common_host_key": _("The SSH server of %(host)s and the panel have no kind of host key in common."),
    "no_common_cipher": _("The SSH server of %(host)s and the panel have no cipher in common."),
    "no_common_mac": _("The SSH server of %(host)s and the panel have no checksum method (MAC) in common."),
    "no_common_compression": _("The SSH server of %(host)s insists on a compression that the panel lacks."),
    "host_key_changed": _(
        "%(host)s shows another host key than the confirmed one: %(presented)s instead of %(pinned)s."
    ),
    # The sign-in.
    "authentication_failed": _("The server refused the sign-in: user, key or password is wrong."),
    "key_and_password": _("The server wants both, the key and the password: store both."),
    "key_not_taken": _("The server takes no key from this user, only: %(methods)s."),
    "password_not_taken": _("The server takes no password from this user, only: %(methods)s."),
    "more_wanted": _("The server accepted what the panel has and wants more: %(methods)s."),
    "password_refused": _("The server accepted the key, but not the password, which it wants as well."),
    "key_refused": _("The server accepted the password, but not the key, which it wants as well."),
    "key_kind_not_taken": _(
        "The server takes no signature that the panel can make with this kind of key: store an Ed25519 key instead."
    ),
    "asks_more": _(
        "The server asks for something besides the password, such as a code, which the panel cannot answer: let the panel’s user "
        "sign in by key or password alone."
    ),
    "lost_at_sign_in": _("The server closed the connection during the sign-in."),
    "closed_at_sign_in": _(
        "The server closed the connection after the panel’s key or password without a word: it is wrong, or the server does not "
        "let this user in."
    ),
    "bad_key": _("The private key cannot be read: it must be Ed25519, RSA or ECDSA, without a passphrase."),
    # Commands and channels.
    "command_failed": _("A command failed on the server."),
    "output_too_long": _("A command on the server wrote more than expected."),
    "session_refused": _("The server refused to run a command."),
    "too_few_sessions": _(
        "SSH on the server allows too few commands at a time on one connection: set MaxSessions to 10, or allow forwarding to "
        "sockets (AllowStreamLocalForwarding)."
    ),
    "shell_reads_input": _(
        "The files that the user’s login shell reads on the server, such as ~/.bashrc, wait for input that is not theirs, so the "
        "docker command cannot be used: have them do so only where somebody types, or allow forwarding to sockets "
        "(AllowStreamLocalForwarding)."
    ),
    "password_expired": _(
        "The password of this user on the server has expired, so it runs no command for them: set a new one there."
    ),
    "account_expired": _("The account of this user on the server has expired: extend it there."),
    "no_login_shell": _(
        "The server runs no command for this user: their login shell does not allow it (nologin)."
    ),
    "no_commands": _("The server signed the user in but did not run the panel's command; it says why."),
    "forwarding_refused": _("The server refused to forward a connection to a socket."),
    "forwarding_forbidden": _(
        "SSH on the server forbids forwarding to sockets (AllowStreamLocalForwarding, DisableForwarding, or “restrict” "
        "before the key), and there is no docker command either."
    ),
    "forwarding_unknown": _(
        "The SSH server, %(program)s, cannot forward connections to sockets, and there is no docker command either: install that "
        "command, or use OpenSSH."
    ),
    "garbage_facts": _("The server's answer about itself makes no sense."),
}
"""What each code means; codes are stored, so none is ever used for something else. A sentence names the host only where it may be shown without a server beside it."""

declare(SENTENCES)

# What rows from before say and the code does not any more, so that it stays translated.
gettext_noop("SSH on the server forbids forwarding to sockets, and there is no docker command either.")


class RemoteError(Refusal):
    """A host did something wrong, or could not be asked; `detail` are its own words, shortened. Rows keep it (`problems.Problem`)."""

    code = "remote"
    sentence: str | Promise = ""

    def __init_subclass__(cls) -> None:
        """A kind of error with a sentence of its own declares it."""
        if "code" in vars(cls) and "sentence" in vars(cls):
            declare({cls.code: cls.sentence})

    def __init__(
        self, sentence: str | Promise = "", *, code: str = "", detail: str = "", **values: Any
    ) -> None:
        words = "".join(c if c.isprintable() else " " for c in detail).strip()[:DETAIL_LIMIT]
        super().__init__(sentence or self.explain(code or self.code), code=code, detail=words, **values)

    @classmethod
    def explain(cls, code: str) -> str | Promise:
        """The sentence of a code, with places for the values."""
        return sentence_of(code) or cls.sentence or SENTENCES["remote"]


class Unreachable(RemoteError):
    """No connection could be made, or the one there was is gone."""

    code = "unreachable"


class TimedOut(RemoteError):
    """The host did not answer in time; the connection has been dropped."""

    code = "timed_out"


class HostKeyChanged(RemoteError):
    """The host does not hold the pinned key; nothing was sent to it. `pinned` and `presented` are fingerprints."""

    code = "host_key_changed"

    def __init__(self, host: str, pinned: str, presented: str) -> None:
        super().__init__(host=host, pinned=pinned, presented=presented)
        self.pinned = pinned
        self.presented = presented


class AuthenticationFailed(RemoteError):
    """The host refused the key or password, or wants more; or the stored key is unusable (bad_key)."""

    code = "authentication_failed"


class CommandFailed(RemoteError):
    """A command ended with an error, or the host ran none (session_refused, password_expired, no_login_shell, …)."""

    code = "command_failed"


class ForwardingRefused(RemoteError):
    """The host did not open a channel to a unix socket. OpenSSH says the same when forwarding is forbidden, when the
    socket is absent and when nobody listens on it, so the reason must be found out separately. `is_unknown`: the server does
    not know this kind of channel at all."""

    code = "forwarding_refused"

    def __init__(
        self, *, code: str = "", detail: str = "", is_unknown: bool = False, **values: object
    ) -> None:
        super().__init__("", code=code, detail=detail, **values)
        self.is_unknown = is_unknown
