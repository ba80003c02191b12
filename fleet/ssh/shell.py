"""Scripts on their way through a login shell of which nothing is known: neither its kind nor what it prints.

A command is a string that the user's login shell reads (RFC 4254 section 6.5). sh, bash, dash, zsh, fish, csh and tcsh agree
on words in single quotes as long as these hold no quote, backslash before a quote, exclamation mark or line end. So a script
travels in the octal escapes of `printf %b`, in words below the 1,024 bytes that csh takes, and marks tell what it wrote from
what the login shell's own files print before and after it. It reads nothing: its input is what those files might read too.
"""

import re
import secrets
from dataclasses import dataclass, field
from functools import lru_cache

from fleet.ssh.errors import CommandFailed

# What travels as it is; of single quotes all shells know these no other way. Less than 9,000 bytes have to do for the longest script:
# dropbear takes no longer command (MAX_CMD_LEN in its sysoptions.h).
_PLAIN = frozenset(range(0x20, 0x7F)) - frozenset(b"'!\\")
_WORD_BYTES = 800
_SHOWN = 400
# The marks are put together on the host, so that a shell that repeats its commands (set -x) does not print them. Those of
# stderr have names of their own: some login shells lead it into the output.
_BEGIN = "printf derpmgmt:%s:{mark}: error-begin >&2; printf derpmgmt:%s:{mark}: begin; "
_SCRIPT = (
    _BEGIN + '(eval "$(printf %b "$@")") </dev/null; s=$?; '
    "printf derpmgmt:%s:{mark}:%s: end $s; printf derpmgmt:%s:{mark}:%s: error-end $s >&2; exit $s"
)
_STREAM = _BEGIN + 'eval "$(printf %b "$@")"'
_STATUS = re.compile(rb"(\d{1,3}):")
# The lines with which hosts say that they sign nobody in or run nothing, in lower case.
_LINES = (
    # sshd (session.c, do_pwchange) and pam_unix
    (r"(warning: )?your password has expired([.!;,(]|$)", "password_expired"),
    (r"password change required but no tty available", "password_expired"),
    (r"you are required to change your password immediately", "password_expired"),
    (r"your account has expired([.!;,(]|$)", "account_expired"),
)
_NO_SHELL = r"this account is (currently )?not available"  # nologin of util-linux and shadow


@dataclass(frozen=True)
class Wrapped:
    """A script on its way. `stream` is one whose program takes over input and output: only its beginning is marked."""

    script: str
    stream: bool = False
    mark: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def command(self) -> str:
        """The command that has a POSIX shell run it, whatever the user's login shell is."""
        around = (_STREAM if self.stream else _SCRIPT).replace("{mark}", self.mark)
        return " ".join([f"/bin/sh -c '{around}' sh", *(f"'{word}'" for word in _words(self.script))])

    def output(self, limit: int) -> "Marked":
        """A reader of its output, of which it keeps `limit` bytes."""
        return self._marked("", limit)

    def errors(self, limit: int) -> "Marked":
        """The same of its error output."""
        return self._marked("error-", limit)

    def _marked(self, prefix: str, limit: int) -> "Marked":
        begin, end = (f"derpmgmt:{prefix}{name}:{self.mark}:".encode() for name in ("begin", "end"))
        return Marked(begin, end, limit)


class Marked:
    """One output of a script: what stands between the marks is kept, of the rest the last bytes before the beginning.

    `text` is the script's own, `before` what else was said as long as it has not begun. `status` is the script's exit status
    once it has ended, `taken` how many bytes came in all.
    """

    TAIL = 4096

    def __init__(self, begin: bytes, end: bytes, limit: int) -> None:
        self._begin, self._end, self._limit = begin, end, limit
        self._longest_end = len(end) + 4
        self.before = b""
        self.has_begun = False
        self.text = bytearray()
        self.status: int | None = None
        self.taken = 0

    def feed(self, data: bytes) -> None:
        """Take what came. Raises CommandFailed (output_too_long) when the script wrote more than the limit."""
        self.taken += len(data)
        if self.status is not None:
            return
        looked = max(len(self.text) - self._longest_end, 0)
        if self.has_begun:
            self.text += data
        else:
            said, mark, after = (self.before + data).partition(self._begin)
            self.before = said[-self.TAIL :]
            self.has_begun = bool(mark)
            self.text += after
        at = self.text.find(self._end, looked)
        ended = _STATUS.match(self.text, at + len(self._end)) if at >= 0 else None
        if ended:
            self.status = int(ended[1])
            del self.text[at:]
        if len(self.text) > self._limit + (0 if ended else self._longest_end):
            raise CommandFailed(code="output_too_long")


class Tail(Marked):
    """An output of which only the last is of interest: `before`."""

    def __init__(self) -> None:
        super().__init__(b"", b"", 0)

    def feed(self, data: bytes) -> None:
        """Take what came."""
        self.taken += len(data)
        self.before = (self.before + data)[-self.TAIL :]


@lru_cache(maxsize=32)
def _words(script: str) -> tuple[str, ...]:
    """A script's words; those of the few that are sent all day are made once."""
    words, word = [], ""
    for byte in script.encode():
        word += chr(byte) if byte in _PLAIN else "\\n" if byte == 0x0A else f"\\0{byte:03o}"
        if len(word) >= _WORD_BYTES:
            words.append(word)
            word = ""
    return (*words, word)


def what_expired(words: str) -> str:
    """`password_expired` or `account_expired` where one of the lines says so in a host's own words, else empty."""
    for line in words.lower().splitlines():
        for pattern, code in _LINES:
            if re.match(pattern, line.strip()):
                return code
    return ""


def not_run(stdout: bytes, stderr: bytes, status: int) -> CommandFailed:
    """The error of a host that ended a command with `status` and never began our script."""
    outputs = [part.decode(errors="replace").strip() for part in (stdout, stderr)]
    code = ""
    if status == 1:
        # The reason is what came last; anything before is what the login shell's files print, whatever it speaks of.
        out, err = (text.rpartition("\n")[2].strip() for text in outputs)
        if re.match(_NO_SHELL, out.lower()) or re.match(_NO_SHELL, err.lower()):
            code = "no_login_shell"
        else:
            code = what_expired(err)
    words = " ".join("\n".join(outputs).split())
    return CommandFailed(code=code or "no_commands", detail=f"{words[-_SHOWN:]} (status {status})")
