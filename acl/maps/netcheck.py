"""What `tailscale netcheck --format=json` prints, as people copy it from a terminal: a device's own time to each relay. Pure.

The program prints its `Report` (Tailscale's net/netcheck/netcheck.go): `RegionLatency` has nanoseconds by region ID. What it logs goes before
that, and prompts stand around what is copied. It measures the relays of the map that the local tailscaled has, which has no flag to give it another;
where none answers it asks for Tailscale's own map, and says so.
"""

import json
import re
from typing import Any

from django.utils.translation import gettext_lazy as _

from derpmgmt.lib.refusals import Refusal

# A report of a thousand regions has 100 KB.
LONGEST = 200_000
# A time in milliseconds beyond which it is none.
_LONGEST_MS = 60_000
# Braces in prompts and logs that are tried before the report's own.
_MOST_TRIES = 50
_CONTROLS = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\0\ufeff\u200b-\u200f]")
_DEFAULT_MAP = re.compile(r"attempting to fetch a DERPMap|No DERP map from tailscaled")
_TABLE = re.compile(r"^\s*\* (UDP|DERP latency|Nearest DERP)\b", re.MULTILINE)


class NotNetcheck(Refusal):
    """A text is not what the program prints, or tells nothing."""

    code = "not_netcheck"
    sentence = _(
        "This is not what the command prints. Run it on one of your devices and paste all of its output, from the first { to the last }."
    )
    field = "text"


_IS_TABLE = _("This is the table for people to read. Run the command as it stands on this page, with --format=json, and paste its output.")  # fmt: skip
_NOT_WHOLE = _("The output is not whole, or something stands in its middle. Run the command again and paste all of it, from the first { to the last }.")  # fmt: skip
_OTHER_JSON = _("This is the output of another command: it has no RegionLatency. Paste that of the command on this page.")  # fmt: skip
_REACHED_NONE = _("The device reached no relay at all at that time. Check its internet connection, and run the command again.")  # fmt: skip
NOT_CONNECTED = _("Tailscale is not connected on this device, so the command did not know your relays. Connect it and run the command again.")  # fmt: skip
_TOO_LONG = _("This is too long to be the output of the command.")


def parse_netcheck(text: str) -> dict[int, float]:
    """The milliseconds to each region that the device reached, by region ID. Raises `NotNetcheck` with what is wrong."""
    if len(text) > LONGEST:
        raise NotNetcheck(_TOO_LONG)
    text = _CONTROLS.sub("", text)
    report = _find_report(text)
    times = report.get("RegionLatency") or {}
    if not isinstance(times, dict):
        raise NotNetcheck
    found = {
        int(region): milliseconds
        for region, nanoseconds in times.items()
        if re.fullmatch(r"\d{1,9}", region) and (milliseconds := _milliseconds(nanoseconds)) is not None
    }
    if not found:
        raise NotNetcheck(NotNetcheck.sentence if times else _REACHED_NONE)
    return found


def knew_no_map(text: str) -> bool:
    """Whether the program says that the device has no map of its own, so that it measured other relays than its customer's, if any."""
    return bool(_DEFAULT_MAP.search(text))


def _find_report(text: str) -> dict[str, Any]:
    decoder = json.JSONDecoder(parse_constant=_refuse)
    others = False
    place = text.find("{")
    for _try in range(_MOST_TRIES):
        if place < 0:
            break
        try:
            found, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            end = place + 1
        else:
            if "RegionLatency" in found:
                return dict(found)
            others = others or bool(found)
        place = text.find("{", end)
    if "RegionLatency" in text:
        raise NotNetcheck(_NOT_WHOLE)
    if knew_no_map(text):
        raise NotNetcheck(NOT_CONNECTED)
    if others:
        raise NotNetcheck(_OTHER_JSON)
    if _TABLE.search(text):
        raise NotNetcheck(_IS_TABLE)
    raise NotNetcheck(_NOT_WHOLE if re.search(r'\{\s*"', text) else "")


def _refuse(word: str) -> None:
    raise ValueError(word)


def _milliseconds(nanoseconds: Any) -> float | None:
    if isinstance(nanoseconds, bool) or not isinstance(nanoseconds, int | float):
        return None
    if not 0 < nanoseconds <= _LONGEST_MS * 1_000_000:
        return None
    return nanoseconds / 1_000_000
