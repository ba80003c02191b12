"""Which pictures are taken, and what is left of them."""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.utils import translation

from accounts.brand.pictures import LIMITS, Limits, PictureRefused, read_picture

PICTURES = Path(__file__).parent / "pictures"
pytestmark = pytest.mark.usefixtures("_english")
ANY = Limits(most_bytes=1_000_000, fewest=1, most=2000, longest=100)


@pytest.fixture
def _english() -> Iterator[None]:
    with translation.override("en"):
        yield


def bytes_of(name: str) -> bytes:
    return (PICTURES / name).read_bytes()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(
    width: int, height: int, rows: bytes, *, depth: int = 8, colour: int = 2, interlaced: int = 0
) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@pytest.mark.parametrize(
    "name",
    ["plain.png", "palette.png", "alpha.png", "bits.png", "deep.png", "plain.jpg", "progressive.jpg", "grey.jpg",
     "noted.jpg", "lossy.webp", "lossless.webp", "alpha.webp", "noted.webp"],
)  # fmt: skip
def test_a_picture_is_taken_without_what_does_not_draw_it(name: str) -> None:
    picture = read_picture(bytes_of(name) + b"<script>behind the end</script>", LIMITS["logo"])
    assert (picture.width, picture.height) == (48, 32)
    assert (
        picture.content_type
        == {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp"}[name.split(".")[1]]
    )
    assert b"taken at home" not in picture.data
    assert b"script" not in picture.data
    # Written anew it is a picture again, and there is nothing left to leave out.
    assert read_picture(picture.data, LIMITS["logo"]) == picture


def test_an_interlaced_png_is_taken() -> None:
    # 3 × 3 pixels: five of the seven passes have any.
    rows = {1: (1, 1), 4: (1, 1), 5: (2, 1), 6: (1, 2), 7: (3, 1)}
    data = b"".join((b"\0" + b"rgb" * wide) * high for wide, high in rows.values())
    assert read_picture(png(3, 3, data, interlaced=1), ANY).width == 3
    with pytest.raises(PictureRefused):
        read_picture(png(3, 3, data[:-1], interlaced=1), ANY)


@pytest.mark.parametrize("name", ["plain.png", "progressive.jpg", "lossy.webp", "lossless.webp"])
def test_no_part_of_a_picture_is_taken_for_one(name: str) -> None:
    data = bytes_of(name)
    for length in range(len(data) - 1):
        with pytest.raises(PictureRefused):
            read_picture(data[:length], ANY)


@pytest.mark.parametrize("name", ["plain.png", "plain.jpg", "lossy.webp", "alpha.webp", "noted.jpg"])
def test_whatever_is_wrong_in_a_picture_is_refused_or_does_no_harm(name: str) -> None:
    data = bytes_of(name)
    for at in range(len(data)):
        for value in (0, 0xFF, data[at] ^ 1):
            try:
                read_picture(data[:at] + bytes([value]) + data[at + 1 :], ANY)
            except PictureRefused:
                continue


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"text",
        b"<html></html>",
        png(2, 2, (b"\0" + b"rgb" * 2) * 3),  # a row too many
        png(2, 2, (b"\0" + b"rgb" * 2) * 1),
        png(2, 2, (b"\5" + b"rgb" * 2) * 2),  # no such filter
        png(2, 2, (b"\0" + b"rgb" * 2) * 2, depth=4),  # no such depth in this type
        png(2, 2, (b"\0" + b"i" * 2) * 2, colour=3),  # no palette
        png(0, 2, b""),
    ],
)
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(PictureRefused) as refused:
        read_picture(data, ANY)
    assert str(refused.value) == "This is no whole PNG, JPEG or WebP picture."


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"></svg>', "SVG is not taken"),
        (b"\xef\xbb\xbf <SVG/>", "SVG is not taken"),
        (b"GIF89a...", "GIF is not taken"),
        (b"\0\0\0\x18ftypheic", "like those of phones"),
    ],
)
def test_it_is_said_why_a_kind_of_picture_is_not_taken(data: bytes, words: str) -> None:
    with pytest.raises(PictureRefused) as refused:
        read_picture(data, ANY)
    assert words in str(refused.value)


def test_a_picture_that_moves_is_refused() -> None:
    with pytest.raises(PictureRefused) as refused:
        read_picture(bytes_of("moving.webp"), ANY)
    assert str(refused.value) == "Pictures that move are not taken."


def test_a_small_file_of_a_huge_picture_is_refused_before_it_is_unpacked() -> None:
    bomb = png(2000, 2000, b"\0" * 100) + b""
    with pytest.raises(PictureRefused) as refused:
        read_picture(png(60_000, 60_000, b"\0" * 100), LIMITS["logo"])
    assert "60000 × 60000" in str(refused.value)
    # One that says it is small and unpacks to more: what is too much is not unpacked.
    with pytest.raises(PictureRefused):
        read_picture(png(24, 24, b"\0" * 50_000_000), LIMITS["logo"])
    with pytest.raises(PictureRefused):
        read_picture(bomb, ANY)


def test_sizes_are_told_with_their_limits() -> None:
    logo = bytes_of("plain.png")
    for limits, words in (
        (Limits(100, 1, 100, 9), "1 KB"),
        (Limits(9999, 33, 100, 9), "48 × 32"),
        (Limits(9999, 1, 40, 9), "48 × 32"),
        (Limits(9999, 1, 100, 1), "as wide as it is high"),
        (Limits(9999, 1, 100, 1.2), "too long"),
    ):
        with pytest.raises(PictureRefused) as refused:
            read_picture(logo, limits)
        assert words in str(refused.value)
