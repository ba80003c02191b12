"""Files that people open in spreadsheet programs."""

# What those take for the begin of a formula (OWASP, "CSV Injection"), full-width forms too.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
# Before a CSV file: lets them read it as UTF-8.
MARK = "\ufeff"


def harmless(text: str) -> str:
    """A text that no spreadsheet program runs: one that would begin a formula gets an apostrophe before it."""
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA_STARTS) else text


class Echo:
    """What the writer of a file's lines writes to, where each is sent at once: it hands them on."""

    def write(self, line: str) -> str:
        """The line itself."""
        return line
