"""Browsers and programs by the names that people know."""

import pytest

from derpmgmt.lib.user_agents import name_program

CHROME = "AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) {CHROME} Safari/537.36", "Chrome · Windows"),
        (f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) {CHROME} Safari/537.36 Edg/126.0", "Edge · Windows"),
        ("Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0", "Firefox · Linux"),
        (f"Mozilla/5.0 (Linux; Android 14; Pixel 8) {CHROME} Mobile Safari/537.36", "Chrome · Android"),
        (
            "Mozilla/5.0 (Macintosh; Intel Mac OS X 14_5) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Safari/605.1.15",
            "Safari · macOS",
        ),
        (
            "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) CriOS/126.0 Mobile Safari/604.1",
            "Chrome · iPhone",
        ),
        (
            f"Mozilla/5.0 (Linux; Android 12; PHONE) {CHROME} Mobile Safari/537.36 MicroMessenger/8.0.49",
            "微信 · Android",
        ),
        ("headscale/0.26.0 (linux; amd64)", "headscale/0.26.0"),
        ("curl/8.5.0", "curl/8.5.0"),
        ("x" * 300, "x" * 40),
        ("", ""),
        ("Chrome/", "Chrome"),
    ],
)
def test_what_a_browser_says_is_told_in_words(said: str, words: str) -> None:
    assert name_program(said) == words
