"""Addresses and texts that are made once for each template are those that Django makes each time."""

from types import SimpleNamespace
from typing import Any

import pytest
from django.template import Context, engines
from django.template.backends.django import DjangoTemplates
from django.urls import NoReverseMatch, set_script_prefix
from django.utils import translation

from derpmgmt.lib import constant_tags

TEXTS = [
    '{% translate "Home" %}',
    '{% trans "Home" %}',
    '{% translate "Home" noop %}',
    '{% translate "Home"|upper %}',
    "{% translate name %}",
    '{% translate "History" context "bottom bar" %}',
    '{% translate "History" context place %}',
    '{% translate "Home" as here %}[{{ here }}]',
    '{% translate "100 %% & more" %}',
    "{% url 'home' %}",
    "{% url 'acl:device-list' %}",
    "{% url 'acl:device-revoke' number %}",
    "{% url address %}",
    "{% url 'home' as here %}[{{ here }}]",
    "{% url 'nowhere' as here %}[{{ here }}]",
    "{% autoescape off %}{% url 'admin:index' %}{% translate 'Home' %}{% endautoescape %}",
    "{% blocktranslate %}Home{% endblocktranslate %}",
]


@pytest.fixture
def plain() -> Any:
    """Django's engine with its own tags."""
    options = {"builtins": [], "libraries": {}, "context_processors": []}
    found = DjangoTemplates({"NAME": "plain", "DIRS": [], "APP_DIRS": False, "OPTIONS": options})
    return found.engine


@pytest.mark.parametrize("text", TEXTS)
def test_what_stands_there_is_what_django_says(plain: Any, text: str) -> None:
    ours, theirs = (
        engine.from_string("{% load i18n %}" + text) for engine in (engines["django"].engine, plain)
    )
    for number in (7, 8):
        for language in ("en", "zh-hans", "en"):
            values = {
                "name": ("Devices", "Account")[number - 7],
                "place": ("bottom bar", "nowhere")[number - 7],
                "address": ("front", "history")[number - 7],
                "number": number,
            }
            with translation.override(language):
                assert ours.render(Context(values)) == theirs.render(Context(values))
    assert ours.render(Context({"name": "Devices", "place": "", "address": "front", "number": 7}))


def test_an_address_follows_the_path_under_which_the_panel_is() -> None:
    page = engines["django"].engine.from_string("{% url 'home' %}")
    assert page.render(Context()) == "/home/"
    try:
        set_script_prefix("/panel/")
        assert page.render(Context()) == "/panel/home/"
    finally:
        set_script_prefix("/")
    assert page.render(Context()) == "/home/"
    with pytest.raises(NoReverseMatch):
        engines["django"].engine.from_string("{% url 'nowhere' %}").render(Context())


def test_it_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(constant_tags.URLNode, "render", lambda _node, _context: asked.append("url") or "/x/")
    page = engines["django"].engine.from_string("{% for one in 'abc' %}{% url 'home' %}{% endfor %}")
    request = SimpleNamespace(resolver_match=SimpleNamespace(namespace=""))
    for _ in range(2):
        assert page.render(Context({"request": request})) == "/x/" * 3
    assert len(asked) == 1
