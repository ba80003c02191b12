"""Pictures that operators upload: read to the last byte, and written anew with nothing but what draws them.

Taken are PNG, JPEG and WebP, which stand still and cannot carry programs. What a camera or program wrote beside the picture (places,
names, comments) and whatever stands behind its end is left out. A PNG is unpacked as a browser would; of the others, whose decoders are
large, every part is walked through.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from accounts.brand.models import BrandPicture
from derpmgmt.lib.refusals import Refusal

_PNG = b"\x89PNG\r\n\x1a\n"
# Those that draw, and those that say how colours are meant.
_PNG_KEPT = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"sRGB", b"gAMA", b"cHRM"}
# Samples a pixel has in each type of colour, and the bits that each may have (PNG, third edition, 11.2.1).
_PNG_COLOURS = {
    0: (1, {1, 2, 4, 8, 16}),
    2: (3, {8, 16}),
    3: (1, {1, 2, 4, 8}),
    4: (2, {8, 16}),
    6: (4, {8, 16}),
}
# Where each pass of an interlaced PNG begins, and its steps: x, y, dx, dy.
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
# JFIF, ICC profiles and Adobe's way of colours; the other APPn and comments do not draw.
_JPEG_LEFT_OUT = {*range(0xE1, 0xF0), 0xFE} - {0xE2, 0xEE}
_JPEG_FRAMES = {0xC0, 0xC1, 0xC2}
_WEBP_KEPT = {b"VP8X", b"ICCP", b"ALPH", b"VP8 ", b"VP8L"}
_WEBP_PLAIN = 0b0011_0000  # of VP8X's flags: has a colour profile, has alpha


class PictureRefused(Refusal):
    """This is no picture that can be taken."""

    code = "picture_refused"
    sentence = _("This is no whole PNG, JPEG or WebP picture.")


class _Broken(ValueError):
    """The bytes are not what they should be."""


@dataclass(frozen=True)
class Limits:
    """How large a picture may be: bytes of its file, pixels of its sides, and how many times as long one may be as the other."""

    most_bytes: int
    fewest: int
    most: int
    longest: float


LIMITS = {
    "logo": Limits(most_bytes=300_000, fewest=24, most=1600, longest=8),
    "icon": Limits(most_bytes=100_000, fewest=16, most=512, longest=1),
    "code": Limits(most_bytes=500_000, fewest=80, most=2000, longest=2),
}


@dataclass(frozen=True)
class Picture:
    """A picture that was taken."""

    content_type: str
    width: int
    height: int
    data: bytes


def read_picture(data: bytes, limits: Limits) -> Picture:
    """The picture in `data`, written anew. Raises `PictureRefused`."""
    if len(data) > limits.most_bytes:
        raise PictureRefused(
            _("The file has %(has)d KB; up to %(most)d KB are taken. Save the picture smaller."),
            has=-(-len(data) // 1000),
            most=limits.most_bytes // 1000,
        )
    try:
        picture = _read(data, limits.most)
    except (_Broken, struct.error, IndexError, zlib.error) as error:
        raise PictureRefused from error
    short, long = sorted((picture.width, picture.height))
    if short < limits.fewest or long > limits.most:
        raise _size(picture, limits)
    if long > short * limits.longest:
        if limits.longest == 1:
            raise PictureRefused(_("This picture must be as wide as it is high."))
        raise PictureRefused(
            _("The picture is too long for its other side: %(width)d × %(height)d pixels."),
            width=picture.width,
            height=picture.height,
        )
    return picture


def _size(picture: Picture, limits: Limits) -> PictureRefused:
    return PictureRefused(
        _("The picture has %(width)d × %(height)d pixels; each side may have %(fewest)d to %(most)d."),
        width=picture.width,
        height=picture.height,
        fewest=limits.fewest,
        most=limits.most,
    )


def keep_picture(picture: Picture) -> BrandPicture:
    """The row of a picture, made where there is none yet."""
    row, _is_new = BrandPicture.objects.get_or_create(
        digest=sha256(picture.data).hexdigest()[:32],
        defaults={
            "content_type": picture.content_type,
            "width": picture.width,
            "height": picture.height,
            "data": picture.data,
        },
    )
    return row


def _read(data: bytes, most: int) -> Picture:
    if data.startswith(_PNG):
        return _read_png(data, most)
    if data.startswith(b"\xff\xd8\xff"):
        return _read_jpeg(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _read_webp(data)
    raise PictureRefused(_why_not(data))


def _why_not(data: bytes) -> str | Promise:
    begin = data[:2000].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if begin.startswith(b"<") and b"<svg" in begin:
        return _(
            "SVG is not taken: such a file may carry programs that run at your customers'. Save it as PNG."
        )
    if begin.startswith(b"gif8"):
        return _("GIF is not taken. Save the picture as PNG.")
    if data[4:8] == b"ftyp":
        return _("Pictures like those of phones (HEIC, AVIF) are not taken. Save it as JPEG or PNG.")
    return ""


# PNG


def _read_png(data: bytes, most: int) -> Picture:
    chunks = list(_png_chunks(data))
    if [name for name, _content in chunks[:1]] != [b"IHDR"] or chunks[-1][0] != b"IEND":
        raise _Broken
    width, height, depth, colour, packing, filtering, interlaced = struct.unpack(">IIBBBBB", chunks[0][1])
    samples, depths = _PNG_COLOURS.get(colour, (0, set()))
    if depth not in depths or packing or filtering or interlaced > 1 or not min(width, height) > 0:
        raise _Broken
    if max(width, height) > most:
        # Before it is unpacked: what it says of itself is enough.
        return Picture("image/png", width, height, b"")
    if colour == 3 and b"PLTE" not in dict(chunks):
        raise _Broken
    passes = _PASSES if interlaced else ((0, 0, 1, 1),)
    _unpack(
        (content for name, content in chunks if name == b"IDAT"),
        [
            (-(-(width - x) // dx) * samples * depth + 7) // 8
            for x, y, dx, dy in passes
            if width > x
            for _row in range(y, height, dy)
        ],
    )
    kept = ((name, content) for name, content in chunks if name in _PNG_KEPT)
    return Picture("image/png", width, height, _PNG + b"".join(_png_chunk(*chunk) for chunk in kept))


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = len(_PNG)
    while True:
        length, name = struct.unpack_from(">I4s", data, at)
        content = data[at + 8 : at + 8 + length]
        (check,) = struct.unpack_from(">I", data, at + 8 + length)
        if check != zlib.crc32(name + content):
            raise _Broken
        yield name, content
        if name == b"IEND":
            return
        at += 12 + length


def _png_chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _unpack(packed: Iterator[bytes], rows: list[int]) -> None:
    """Unpack as many rows as there should be, each behind the number of its filter; raises for more, fewer or other ones."""
    unpacker = zlib.decompressobj()
    waiting = bytearray()
    left = iter(rows)
    row = next(left, None)
    for piece in packed:
        while True:
            got = unpacker.decompress(piece, 65_536)
            waiting += got
            begin = 0
            while row is not None and len(waiting) - begin >= row + 1:
                if waiting[begin] > 4:
                    raise _Broken
                begin += row + 1
                row = next(left, None)
            del waiting[:begin]
            if row is None and waiting:
                raise _Broken
            piece = unpacker.unconsumed_tail
            if not piece and len(got) < 65_536:
                break
    if row is not None or waiting or not unpacker.eof:
        raise _Broken


# JPEG


def _read_jpeg(data: bytes) -> Picture:
    kept = [data[:2]]
    size: tuple[int, int] | None = None
    has_scan = False
    at = 2
    while True:
        if data[at] != 0xFF:
            raise _Broken
        while data[at + 1] == 0xFF:  # fill bytes
            at += 1
        marker = data[at + 1]
        if marker == 0xD9:
            break
        if marker in {0x00, 0x01, *range(0xD0, 0xD9)}:
            raise _Broken
        (length,) = struct.unpack_from(">H", data, at + 2)
        end = at + 2 + length
        if length < 2 or end > len(data):
            raise _Broken
        if marker in _JPEG_FRAMES:
            if size is not None:
                raise _Broken
            precision, height, width, samples = struct.unpack_from(">BHHB", data, at + 4)
            if (
                precision != 8
                or samples not in {1, 3, 4}
                or not height
                or not width
                or length != 8 + 3 * samples
            ):
                raise _Broken
            size = width, height
        elif 0xC3 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC}:
            raise _Broken  # kinds that no browser draws
        if marker == 0xDA:
            if size is None:
                raise _Broken
            has_scan = True
            end = _end_of_scan(data, end)
        if marker not in _JPEG_LEFT_OUT:
            kept.append(data[at:end])
        at = end
    if size is None or not has_scan:
        raise _Broken
    return Picture("image/jpeg", *size, b"".join(kept) + b"\xff\xd9")


def _end_of_scan(data: bytes, at: int) -> int:
    """Where the next marker stands behind the coded pixels that begin at `at`."""
    begin = at
    while True:
        at = data.find(b"\xff", at)
        if at < 0:
            raise _Broken
        if data[at + 1] not in {0x00, *range(0xD0, 0xD8)}:
            if at == begin:
                raise _Broken
            return at
        at += 2


# WebP


def _read_webp(data: bytes) -> Picture:
    (length,) = struct.unpack_from("<I", data, 4)
    end = 8 + length
    if end > len(data):
        raise _Broken
    kept: list[tuple[bytes, bytes]] = []
    at = 12
    while at < end:
        name, size = struct.unpack_from("<4sI", data, at)
        content = data[at + 8 : at + 8 + size]
        if at + 8 + size > end:
            raise _Broken
        if name in {b"ANIM", b"ANMF"}:
            raise PictureRefused(_("Pictures that move are not taken."))
        if name in _WEBP_KEPT:
            kept.append((name, content))
        at += 8 + size + size % 2
    names = [name for name, _content in kept]
    if len(set(names)) != len(names) or len({b"VP8 ", b"VP8L"} & set(names)) != 1:
        raise _Broken
    parts = dict(kept)
    width, height = _lossless_size(parts[b"VP8L"]) if b"VP8L" in parts else _lossy_size(parts[b"VP8 "])
    if names[0] == b"VP8X":
        parts[b"VP8X"] = _plain_header(parts[b"VP8X"], width, height)
    elif len(names) != 1:
        raise _Broken
    body = b"WEBP" + b"".join(
        struct.pack("<4sI", name, len(content)) + content + b"\0" * (len(content) % 2)
        for name, content in parts.items()
    )
    return Picture("image/webp", width, height, struct.pack("<4sI", b"RIFF", len(body)) + body)


def _lossy_size(content: bytes) -> tuple[int, int]:
    """RFC 6386, section 9.1: a key frame, and the sides in 14 bits each."""
    first, code, width, height = struct.unpack_from("<B2x3sHH", content)
    if first & 1 or code != b"\x9d\x01\x2a" or not (width & 0x3FFF and height & 0x3FFF):
        raise _Broken
    return width & 0x3FFF, height & 0x3FFF


def _lossless_size(content: bytes) -> tuple[int, int]:
    mark, bits = struct.unpack_from("<BI", content)
    if mark != 0x2F or bits >> 29:
        raise _Broken
    return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1


def _plain_header(content: bytes, width: int, height: int) -> bytes:
    """VP8X without what is left out; its canvas is the picture's size."""
    if len(content) != 10:
        raise _Broken
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    if content[4:] != canvas:
        raise _Broken
    return bytes([content[0] & _WEBP_PLAIN, 0, 0, 0]) + canvas
