"""What the header of a JPEG, PNG or WebP says, before a decoder sees the file; and whether the file is whole."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from ..errors import ImageError

#: A progressive JPEG costs one pass over all pixels per scan; real files have about ten.
MAX_SCANS = 64
#: A JPEG marker; inside of a scan, FF 00 is a byte and FF D0 to FF D7 are no segments.
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)
#: Brands in the first box of files of the ISO base media format.
_BRANDS = {
    b"heic": "HEIC, as iPhones save it",
    b"heix": "HEIC, as iPhones save it",
    b"mif1": "HEIF",
    b"msf1": "HEIF",
    b"avif": "AVIF",
    b"avis": "AVIF",
}
#: Bytes of a lost block, as storage and downloads leave it: never read, or erased flash.
_HOLES = (bytes(64), b"\xff" * 64)


@dataclass(frozen=True, slots=True)
class Header:
    """Width and height in pixels as stored (EXIF may turn them); alpha: may some of it be transparent? reducible: can
    it be decoded at a reduced size without holding all of it?"""

    width: int
    height: int
    alpha: bool = False
    reducible: bool = False


def read_header(data: bytes, name: str) -> Header:
    """By the file's own magic bytes. Raises ImageError with what was found."""
    try:
        return _header(data, name)
    except (struct.error, IndexError):
        raise ImageError(f"{name}: the header is cut off") from None


def _header(data: bytes, name: str) -> Header:
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png(data, name)
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg(data, name)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data, name)
    if data[4:8] == b"ftyp" and (kind := _BRANDS.get(data[8:12])):
        raise ImageError(f"{name} is {kind}; expected JPEG, PNG or WebP: convert it to one of them")
    found = data[:8].hex(" ") or "nothing"
    raise ImageError(f"{name} is not a JPEG, PNG or WebP (it begins with {found}); convert it to one of them")


def _png(data: bytes, name: str) -> Header:
    """Walk the chunks: a length beyond the file makes libpng allocate gigabytes before it notices."""
    at, width, height, alpha, ended = 8, 0, 0, False, False
    while at < len(data) and not ended:
        length, kind = struct.unpack_from(">I4s", data, at)
        if length > len(data) - at - 12:
            raise ImageError(
                f"{name}: PNG chunk {kind!r} claims {length:,} bytes, {max(0, len(data) - at - 12):,} remain"
            )
        if at == 8:
            if kind != b"IHDR" or length != 13:
                raise ImageError(f"{name}: the first PNG chunk is {kind!r} of {length} bytes, expected IHDR of 13")
            width, height = struct.unpack_from(">II", data, at + 8)
            alpha = data[at + 17] in (4, 6)
        alpha |= kind == b"tRNS"
        if kind == b"acTL":
            raise ImageError(f"{name} is an animated PNG; give one still picture")
        ended = kind == b"IEND"
        at += 12 + length
    if not ended:
        raise ImageError(f"{name}: the PNG is cut off (no IEND)")
    return Header(width, height, alpha)


def _jpeg(data: bytes, name: str) -> Header:
    """Walk the segments to the end of the picture; a phone may have put a video behind it."""
    at, scans, header = 2, 0, None
    firsts: dict[int, int] = {}
    smooth = True
    while found := _MARKER.search(data, at):
        if scans:
            _check_whole(data, at, found.start(), smooth, name)
        at, marker = found.end(), data[found.end() - 1]
        if marker == 0xD9:
            break
        if marker in (0x01, 0xD8):
            continue
        length = int.from_bytes(data[at : at + 2], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, at + 3)
            header = Header(width, height, reducible=marker in (0xC0, 0xC1))
        elif marker == 0xC4:
            firsts |= _first_symbols(data[at + 2 : at + length])
        elif marker == 0xDA:
            scans += 1
            smooth = _zeros_are_smooth(data[at + 2 : at + length], firsts)
        if scans > MAX_SCANS:
            raise ImageError(f"{name}: more than {MAX_SCANS} JPEG scans")
        at += length
    if header is None:
        raise ImageError(f"{name}: no JPEG frame header")
    return header


def _first_symbols(tables: bytes) -> dict[int, int]:
    """Of each Huffman table (0x00 to 0x03 for DC, 0x10 to 0x13 for AC) the symbol that zeros alone stand for."""
    firsts, at = {}, 0
    while at + 17 < len(tables):
        firsts[tables[at]] = tables[at + 17]
        at += 17 + sum(tables[at + 1 : at + 17])
    return firsts


def _zeros_are_smooth(scan: bytes, firsts: dict[int, int]) -> bool:
    """May a scan hold a long run of zeros? Only where these stand for "nothing new" (DC) and "end of block" (AC), as in
    a smooth area, or refine an earlier scan; elsewhere they would be block after block of nothing but small waves."""
    count = scan[0] if scan else 0
    if len(scan) < 2 * count + 4:
        return True  # no scan: libjpeg says so
    low, high, bits = scan[1 + 2 * count : 4 + 2 * count]
    tables = scan[2 : 1 + 2 * count : 2]
    used = [t >> 4 for t in tables if low == 0] + [0x10 | t & 15 for t in tables if high > 0]
    return bits >> 4 > 0 or all(firsts.get(t, 0) & 15 == 0 for t in used)


def _check_whole(data: bytes, begin: int, end: int, smooth: bool, name: str) -> None:
    """What libjpeg makes up what is lost and warns at most."""
    for hole in _HOLES[1:] if smooth else _HOLES:
        if (at := data.find(hole, begin, end)) >= 0:
            raise ImageError(f"{name}: a stretch of the JPEG is lost (byte {at:,} on); get the file again")


def _webp(data: bytes, name: str) -> Header:
    kind = data[12:16]
    if int.from_bytes(data[4:8], "little") + 8 > len(data):
        raise ImageError(f"{name}: the WebP is cut off ({len(data):,} bytes)")
    if kind == b"VP8X":
        if data[20] & 0x02:
            raise ImageError(f"{name} is an animated WebP; give one still picture")
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        return Header(width, height, bool(data[20] & 0x10))
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return Header(width & 0x3FFF, height & 0x3FFF)
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return Header((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, bool(bits >> 28 & 1))
    raise ImageError(f"{name}: unknown WebP chunk {kind!r}")
