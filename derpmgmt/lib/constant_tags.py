"""Django's `{% url %}` and `{% translate %}` where they stand for the same text each time: it is made once.

A page has dozens of both, and each costs what three variables do. `i18n` is loaded under its own name (settings), `url` is built in.
"""

from collections.abc import Callable
from typing import Any

from django import template
from django.template import Context
from django.template.base import FilterExpression, Node, Parser, Token
from django.template.defaulttags import URLNode
from django.template.defaulttags import url as make_url
from django.templatetags import i18n
from django.templatetags.i18n import TranslateNode, do_translate
from django.urls import get_script_prefix, get_urlconf
from django.utils.translation import get_language

register = template.Library()
register.tags.update(i18n.register.tags)
register.filters.update(i18n.register.filters)


class Constant(Node):
    """What `node` renders, by all that it depends on: what `key` says, and whether the page escapes."""

    child_nodelists = ()

    def __init__(self, node: Node, key: Callable[[Context], Any]) -> None:
        self._node = node
        self._key = key
        self._made: dict[Any, str] = {}

    def render(self, context: Context) -> str:
        key = (self._key(context), context.autoescape)
        made = self._made.get(key)
        if made is None:
            made = self._made[key] = self._node.render(context)
        return made


def _is_constant(expression: FilterExpression | None) -> bool:
    return expression is None or (isinstance(expression.var, str) and not expression.filters)


def _place(context: Context) -> Any:
    """What an address depends on beside its name."""
    match = getattr(getattr(context, "request", None), "resolver_match", None)
    return get_urlconf(), get_script_prefix(), match and match.namespace


@register.tag
def url(parser: Parser, token: Token) -> Node:
    """As Django's."""
    node: URLNode = make_url(parser, token)
    is_constant = _is_constant(node.view_name) and not (node.args or node.kwargs or node.asvar)
    return Constant(node, _place) if is_constant else node


@register.tag("translate")
@register.tag("trans")
def translate(parser: Parser, token: Token) -> Node:
    """As Django's."""
    node: TranslateNode = do_translate(parser, token)
    text = node.filter_expression
    is_constant = not (text.filters or node.asvar) and _is_constant(node.message_context)
    # Django has made a variable of the text by now, which knows its literal.
    is_constant = is_constant and getattr(text.var, "literal", None) is not None
    return Constant(node, lambda _context: get_language()) if is_constant else node
