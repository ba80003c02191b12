"""What was made of rows that do not change, kept in the process: texts and parts of pages that are asked for again and again."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import ClassVar, Generic, TypeVar
from weakref import WeakSet

T = TypeVar("T")


class Kept(Generic[T]):
    """The `most` things that were asked for last. A key says all that the thing is made of, so none is ever out of date."""

    _all: ClassVar["WeakSet[Kept[object]]"] = WeakSet()

    def __init__(self, most: int) -> None:
        self._most = most
        self._found: OrderedDict[Hashable, T] = OrderedDict()
        self._turn = threading.Lock()
        self._all.add(self)  # type: ignore[arg-type]

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """What was made under that key; made now where it was not, or is forgotten."""
        with self._turn:
            if key in self._found:
                self._found.move_to_end(key)
                return self._found[key]
        made = make()
        with self._turn:
            self._found[key] = made
            if len(self._found) > self._most:
                self._found.popitem(last=False)
        return made

    @classmethod
    def forget_all(cls) -> None:
        """For tests, whose rows have the keys of other tests'."""
        for kept in cls._all:
            kept._found.clear()
