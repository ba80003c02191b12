"""Whatever colour an operator chooses, what is written in it and on it can be read."""

import re

import pytest
from django.test import Client
from hypothesis import given
from hypothesis import strategies as st

from accounts.brand import colours, current_brand
from accounts.brand.colours import contrast, read_colour
from accounts.services import change_brand

COLOURS = st.integers(0, 0xFFFFFF).map(lambda number: f"#{number:06x}")


def variables(css: str, selector: str) -> dict[str, str]:
    """The variables of one rule."""
    body = next(body for found, body in re.findall(r"([^{}]+)\{([^}]*)\}", css) if found.strip() == selector)
    return dict(re.findall(r"--tblr-([a-z-]+):([^;]+);", body))


@given(COLOURS)
def test_text_in_the_accent_and_on_it_is_readable_in_light_and_dark(accent: str) -> None:
    css = colours.stylesheet(accent)
    white, dark = read_colour("#ffffff"), read_colour(colours.DARK_GROUND)
    light_theme, dark_theme = variables(css, ":root"), variables(css, '[data-bs-theme="dark"]')
    assert contrast(read_colour(light_theme["primary"]), white) >= 4.5
    assert contrast(read_colour(dark_theme["primary"]), dark) >= 3
    for theme, ground in ((light_theme, white), (dark_theme, dark)):
        assert contrast(read_colour(theme["primary-fg"]), read_colour(theme["primary"])) >= 4.5
        assert contrast(read_colour(theme["primary-fg"]), read_colour(theme["primary-darken"])) >= 4.5
        link = read_colour(theme["link-color"])
        assert contrast(link, ground) >= 4.5
        assert contrast(link, colours.mix(ground, link, 10)) >= 4.5
        assert contrast(read_colour(theme["link-hover-color"]), ground) >= 4.5
        assert theme["primary-rgb"] == ", ".join(map(str, read_colour(theme["primary"])))
    for selector in (".btn-primary", '[data-bs-theme="dark"] .btn-primary'):
        button = variables(css, selector)
        words = read_colour(button["btn-variant-fg"])
        assert contrast(words, read_colour(button["btn-variant"])) >= 4.5
        assert contrast(words, read_colour(button["btn-variant-darken"])) >= 4.5
    assert variables(css, ".btn-primary")["btn-variant"] == accent


@pytest.mark.parametrize(
    ("one", "other", "ratio"),
    [("#000000", "#ffffff", 21.0), ("#777777", "#ffffff", 4.48), ("#767676", "#ffffff", 4.54)],
)
def test_contrast_is_that_of_the_standard(one: str, other: str, ratio: float) -> None:
    assert contrast(read_colour(one), read_colour(other)) == pytest.approx(ratio, abs=0.01)


@pytest.mark.parametrize("text", ["", "red", "#fff", "#12345g", "#1234567", "url(x)", "#12345\n"])
def test_what_is_no_colour_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        colours.stylesheet(text)


@pytest.mark.django_db
def test_the_stylesheet_is_served_for_good_under_an_address_that_names_it(client: Client) -> None:
    assert current_brand().style_url == ""
    change_brand(by=None, accent="#1a7f5c")
    url = current_brand().style_url
    response = client.get(url)
    assert response["Content-Type"] == "text/css; charset=utf-8"
    assert "immutable" in response["Cache-Control"]
    assert response.content.decode() == colours.stylesheet("#1a7f5c")
    assert client.get(url.replace("1a7f5c", "1a7f5d")).status_code == 404
    assert client.get("/brand/red.css").status_code == 404
