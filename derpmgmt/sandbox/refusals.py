"""How the Engine says no."""

from __future__ import annotations


class Refusal(Exception):
    """The Engine's refusal: HTTP status and its words, which the answer carries as ``message``."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def disk_full(path: str) -> Refusal:
    """The operating system's words for a write that found no room, as every part of the Engine passes them on."""
    return Refusal(500, f"write {path}: no space left on device")
