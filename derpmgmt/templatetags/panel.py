"""Template tags of the panel's pages."""

import re
from functools import cache
from typing import Any

from django import template
from django.conf import settings
from django.template import Context
from django.utils.html import format_html
from django.utils.safestring import SafeString

from derpmgmt.lib import moments
from derpmgmt.lib.places import place_of
from derpmgmt.lib.user_agents import name_program

register = template.Library()

ICONS = settings.BASE_DIR / "static" / "vendor" / "tabler" / "icons"


@cache
def _drawing(name: str) -> str:
    """What is inside the icon's `<svg>`, without the invisible frame that Tabler's begin with."""
    inside = re.sub(r"^.*?<svg[^>]*>|</svg>\s*$", "", (ICONS / f"{name}.svg").read_text(), flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r'<path stroke="none"[^>]*/>', "", inside)).strip()


@register.simple_tag
def icon(name: str) -> SafeString:
    """One of Tabler's icons, drawn in the colour of the text; programs that read the page aloud pass it over.

    `name` is a file of static/vendor/tabler/icons; raises FileNotFoundError for another.
    """
    return SafeString(
        f'<svg class="panel-icon" viewBox="0 0 24 24" aria-hidden="true">{_drawing(name)}</svg>'
    )


@register.simple_tag
def state(colour: str, word: Any) -> SafeString:
    """A state as it is shown everywhere: a colour (green, blue, orange, red, grey), a shape by the style sheet, and a word."""
    return format_html('<span class="panel-state is-{}">{}</span>', colour, word)


_HEADING = re.compile(
    r"\s*<h1[^>]*>(?P<name>.*?)</h1>\s*(?:<p class=\"text-secondary\">(?P<sentence>.*?)</p>)?", re.DOTALL
)


@register.simple_block_tag
def headed(content: str) -> dict[str, SafeString]:
    """A page's content as its `head`, the `<h1>` and one sentence that it begins with, and its `body`, so that allauth's pages have their heads where ours have."""
    found = _HEADING.match(content)
    if not found:
        return {"head": SafeString(), "body": SafeString(content)}
    sentence = f"<p>{found['sentence']}</p>" if found["sentence"] else ""
    head = f'<header class="panel-head"><div><h1 class="text-break">{found["name"].strip()}</h1>{sentence}</div></header>'
    return {"head": SafeString(head), "body": SafeString(content[found.end() :])}


@register.simple_tag(takes_context=True)
def here(context: Context, *names: str) -> SafeString:
    """` aria-current="page"` in a link when the page's URL name is, or begins with, one of `names`; else nothing."""
    match = getattr(context.get("request"), "resolver_match", None)
    return SafeString(' aria-current="page"' if match and match.view_name.startswith(names) else "")


for words in (moments.ago, moments.age, moments.exact):
    register.filter(words)
register.filter("program", name_program)
register.filter("place", place_of)


@register.filter
def milliseconds(value: float | None) -> str:
    """A measured time, `3.1 ms`; – for none."""
    return "–" if value is None else f"{value:.1f} ms"
