"""Bytes and rates have the unit that fits, in decimal steps."""

import pytest

from serials.rentals.wording import rate, traffic


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (999_999, "1 MB"),
        (81_250_000, "81.25 MB"),
        (500 * 10**9, "500 GB"),
        (1_500 * 10**9, "1.5 TB"),
        (10**24, "1e+06 EB"),
    ],
)
def test_bytes_have_the_unit_that_fits(size: int, words: str) -> None:
    # A number and its unit stay on one line.
    assert traffic(size) == words.replace(" ", "\u00a0")


@pytest.mark.parametrize(
    ("speed", "words"),
    [
        (0, "0 bit/s"),
        (0.04, "0 bit/s"),
        (80_000, "640 kbit/s"),
        (2_500_000, "20 Mbit/s"),
        (10**9, "8 Gbit/s"),
    ],
)
def test_rates_are_in_bits(speed: float, words: str) -> None:
    assert rate(speed) == words.replace(" ", "\u00a0")
