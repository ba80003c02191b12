"""What a browser, or another program, says of itself (the header User-Agent), in words."""

import re

# The first that is found counts: most browsers also name those they descend from.
_PROGRAMS = (
    ("MicroMessenger/", "微信"),
    ("QQBrowser/", "QQ 浏览器"),
    ("UCBrowser/", "UC 浏览器"),
    ("Edg", "Edge"),
    ("OPR/", "Opera"),
    ("SamsungBrowser/", "Samsung Internet"),
    ("HuaweiBrowser/", "华为浏览器"),
    ("MiuiBrowser/", "小米浏览器"),
    ("FxiOS/", "Firefox"),
    ("Firefox/", "Firefox"),
    ("CriOS/", "Chrome"),
    ("Chrome/", "Chrome"),
    ("Safari/", "Safari"),
)
_SYSTEMS = (
    ("HarmonyOS", "HarmonyOS"),
    ("OpenHarmony", "HarmonyOS"),
    ("Android", "Android"),
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Windows", "Windows"),
    ("CrOS", "ChromeOS"),
    ("Mac OS X", "macOS"),
    ("Linux", "Linux"),
)
_LONGEST = 40


def name_program(user_agent: str) -> str:
    """Browser and system (`Chrome · Windows`); of another program its own name (`curl/8.5.0`); "" where nothing is said."""
    program = next((name for mark, name in _PROGRAMS if mark in user_agent), "")
    if not program:
        # Programs begin with their name (RFC 9110, section 10.1.5).
        return re.split(r"[\s(;]", user_agent.strip(), maxsplit=1)[0][:_LONGEST]
    system = next((name for mark, name in _SYSTEMS if mark in user_agent), "")
    return " · ".join(filter(None, [program, system]))
