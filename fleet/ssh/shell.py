"""Scripts on their way through a login shell of which nothing is known: neither its kind nor what it prints.

A command is a string that the user's login shell reads (RFC 4254 section 6.5). sh, bash, dash, zsh, fish, csh and tcsh agree
on words in single quotes as long as these hold no quote, backslash before a quote, exclamation mark or line end. So a script
travels in the octal escapes of `printf %b`, in words below the 1,024 bytes that csh takes, and marks tell what it wrote from
what the login shell's own files print before and after it.
"""

from collections.abc import Iterator

from fleet.ssh.errors import CommandFailed

BEGIN, END = b"derpmgmt:begin:", b"derpmgmt:end:"
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 /._:=,-+@")
_WORD_BYTES = 800
# The marks are put together on the host, so that a shell that repeats its commands (set -x) does not print them.
_SCRIPT = (
    "printf derpmgmt:%s: begin; printf derpmgmt:%s: begin >&2; "
    '(eval "$(printf %b "$@")"); s=$?; '
    "printf derpmgmt:%s: end; printf derpmgmt:%s: end >&2; exit $s"
)
_STREAM = 'printf derpmgmt:%s: begin; printf derpmgmt:%s: begin >&2; eval "$(printf %b "$@")"'
# What hosts say instead of running anything, in lower case; the first match counts.
_WORDS = (
    ("password has expired", "password_expired"),
    ("password change required", "password_expired"),
    ("required to change your password", "password_expired"),
    ("account has expired", "account_expired"),
    ("account is currently not available", "no_login_shell"),  # nologin of util-linux and shadow
    ("account is not available", "no_login_shell"),
)
_SHOWN = 400


def command_line(script: str) -> str:
    """The command that has a POSIX shell run `script`, whatever the user's login shell is."""
    return _wrap(_SCRIPT, script)


def stream_line(script: str) -> str:
    """The same for a script that becomes a stream: only its beginning is marked."""
    return _wrap(_STREAM, script)


def _wrap(around: str, script: str) -> str:
    return " ".join([f"/bin/sh -c '{around}' sh", *(f"'{word}'" for word in _words(script))])


def _words(script: str) -> Iterator[str]:
    word = ""
    for byte in script.encode():
        word += chr(byte) if byte in _PLAIN else f"\\0{byte:03o}"
        if len(word) >= _WORD_BYTES:
            yield word
            word = ""
    yield word


def read_marked(stdout: bytes, stderr: bytes, status: int) -> tuple[bytes, bytes]:
    """What the script itself wrote to both outputs. Raises CommandFailed when it was not run, with the host's words."""
    _noise, mark, out = stdout.partition(BEGIN)
    if not mark:
        raise not_run(stdout, stderr, status)
    before, mark, err = stderr.partition(BEGIN)
    if not mark:
        err = before
    return _before_end(out), _before_end(err)


def _before_end(output: bytes) -> bytes:
    text, mark, _noise = output.rpartition(END)
    return text if mark else output


def not_run(stdout: bytes, stderr: bytes, status: int) -> CommandFailed:
    """The error of a host that ended a command with `status` and never began our script."""
    said = b"\n".join(part.strip() for part in (stdout, stderr) if part.strip())
    words = " ".join(said.decode(errors="replace").split())
    lowered = words.lower()
    code = next((code for fragment, code in _WORDS if fragment in lowered), "no_commands")
    # What the login shell's files print comes first: the reason is at the end.
    return CommandFailed(code=code, detail=f"{words[-_SHOWN:]} (status {status})")
