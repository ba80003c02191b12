"""Where an IP address is, from a database in ipdb format that the operator provides (`settings.IP_DATABASE`).

The format, as ipip.net's own reader has it (github.com/ipipdotnet/ipdb-python): four bytes (big-endian, like all numbers in it)
with the length of the JSON that follows, the description; then `node_count` nodes of two numbers, a binary trie over IPv6
addresses, where IPv4 stands at ::ffff:0:0; then records of a two-byte length and text, whose fields are separated by tabs.
A node's number below `node_count` is another node, `node_count` itself is nothing, above it is a record. That reader itself is not
used: it keeps the whole file in the memory of every process, and is no wheel.
"""

import ipaddress
import json
import logging
import os
import threading
import weakref
from pathlib import Path

from django.conf import settings

log = logging.getLogger(__name__)

# Addresses whose places one process remembers, and the length of a place in the tables.
_MOST_KNOWN = 10_000
_LONGEST = 80
_LONGEST_DESCRIPTION = 65_536
# The database's one language, and of its fields those that make a place.
_LANGUAGE = "CN"
_PARTS = ("country_name", "region_name", "city_name")
_HOME = "中国"


class BrokenDatabase(ValueError):
    """The file is no ipdb database, or not whole."""


class Database:
    """An open database. It is read from the file, piece by piece: 40 MB that no process needs in its memory.

    The file is not mapped, since whoever overwrites a mapped file kills those who read it.
    """

    def __init__(self, path: str) -> None:
        """Raises `OSError` and `BrokenDatabase`."""
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._file)
        self.mark = _mark(os.fstat(self._file))
        self._known: dict[str, str] = {}
        length = int.from_bytes(self._read(0, 4))
        if length > _LONGEST_DESCRIPTION:
            raise BrokenDatabase("no description")
        try:
            about = json.loads(self._read(4, length))
            self._nodes = int(about["node_count"])
            self._size = int(about["total_size"])
            first = int(about["languages"][_LANGUAGE])
            self._fields = [first + about["fields"].index(name) for name in _PARTS]
        except (ValueError, RecursionError, TypeError, KeyError, AttributeError) as error:
            raise BrokenDatabase("no description") from error
        self._start = 4 + length
        if self.mark[-1] != self._start + self._size:
            raise BrokenDatabase("not whole")
        self._ipv4 = 0
        for bit in (0,) * 80 + (1,) * 16:
            self._ipv4 = self._step(self._ipv4, bit)

    def find(self, ip: str) -> str:
        """The place of an IP address, "" when it has none or none is known. Raises `OSError` and `BrokenDatabase`."""
        place = self._known.get(ip)
        if place is None:
            place = self._look_up(ip)
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[ip] = place
        return place

    def _look_up(self, ip: str) -> str:
        try:
            address = ipaddress.ip_address(ip)
        except ValueError:
            return ""
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        if not address.is_global:
            return ""
        node = self._ipv4 if address.version == 4 else 0
        for bit in range(address.max_prefixlen - 1, -1, -1):
            if node >= self._nodes:
                break
            node = self._step(node, int(address) >> bit & 1)
        if node <= self._nodes:
            return ""
        record = self._start + self._nodes * 8 + node - self._nodes
        length = int.from_bytes(self._read(record, 2))
        try:
            fields = self._read(record + 2, length).decode().split("\t")
            return _in_words([fields[number].strip() for number in self._fields])
        except (ValueError, IndexError) as error:
            raise BrokenDatabase("a broken record") from error

    def _step(self, node: int, bit: int) -> int:
        return int.from_bytes(self._read(self._start + node * 8 + bit * 4, 4)) if node < self._nodes else node

    def _read(self, offset: int, length: int) -> bytes:
        # One position for all threads and forked processes would be nobody's: pread needs none.
        data = os.pread(self._file, length, offset)
        if len(data) < length:
            raise BrokenDatabase("not whole")
        return data


def _in_words(parts: list[str]) -> str:
    """`广东 深圳`, `北京`, `美国 加利福尼亚州`: at home without the country, nothing twice."""
    country, *rest = parts
    words = [word for word in dict.fromkeys([country, *rest]) if word]
    if words[:1] == [_HOME] and len(words) > 1:
        del words[0]
    return " ".join(words)[:_LONGEST]


_lock = threading.Lock()
_database: Database | None = None
# The path that was said to be of no use; said once, until a database could be opened again.
_said = ""


def place_of(ip: str | None) -> str:
    """The place of an IP address in a few words, "" when it has none or none is known; never raises.

    Costs some reads of a file, so it is nothing for hot paths. A file that was replaced counts from the next call.
    """
    global _said
    path: str = settings.IP_DATABASE
    if not path or not ip:
        return ""
    try:
        return _open(path).find(ip)
    except (OSError, BrokenDatabase) as error:
        if _said != path:
            log.warning("places of IP addresses stay empty, %s cannot be read: %s", path, error)
        _said = path
        return ""


def _open(path: str) -> Database:
    global _database, _said
    mark = _mark(Path(path).stat())
    database = _database
    if database is None or database.mark != mark:
        with _lock:
            _database, _said = Database(path), ""
            database = _database
    return database


def _mark(found: os.stat_result) -> tuple[int, ...]:
    """By what a file is known to be the same; its size comes last."""
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
