"""A worker that dies between two lines of the code."""

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


class Killed(BaseException):
    """It is gone; no `except Exception` stops it."""


def dies_at_line(number: int, files: tuple[str, ...], act: Callable[[], object]) -> bool:
    """Do `act`, but die before the `number`-th line that runs in `files` (ends of paths); False when there were not so many."""
    left = number

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.endswith(files):
            return None
        if event == "line":
            left -= 1
            if left < 0:
                sys.settrace(None)
                raise Killed
        return trace

    before = sys.gettrace()
    try:
        sys.settrace(trace)
        act()
    except Killed:
        return True
    finally:
        sys.settrace(before)
    return False
