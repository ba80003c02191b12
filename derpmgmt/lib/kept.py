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

    def find(self, key: Hashable) -> T | None:
        """What is kept under that key; None where there is nothing, or it is forgotten."""
        with self._turn:
            if key not in self._found:
                return None
            self._found.move_to_end(key)
            return self._found[key]

    def keep(self, key: Hashable, made: T) -> T:
        """`made`, kept under that key."""
        with self._turn:
            self._found[key] = made
            if len(self._found) > self._most:
                self._found.popitem(last=False)
        return made

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """What is kept under that key, or is made now."""
        found = self.find(key)
        return self.keep(key, make()) if found is None else found

    @classmethod
    def forget_all(cls) -> None:
        """For tests, whose rows have the keys of other tests'."""
        for kept in cls._all:
            kept._found.clear()
