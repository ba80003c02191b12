"""The brand where a template has no context at all: error pages that stand alone."""

from django import template

from accounts.brand import known_brand

register = template.Library()


@register.simple_tag
def known_name() -> str:
    """The name that was known last, without the database; "" where this process has read none yet."""
    brand = known_brand()
    return brand.name if brand else ""
