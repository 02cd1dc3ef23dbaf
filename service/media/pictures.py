"""An encoded photo's bytes to upright RGB pixels. It knows no network and no HTTP; of the camera, what EXIF tells.

What a header tells (kind, size, orientation) is read and held against the limits before any pixel is decoded.
"""

from __future__ import annotations

import io
import logging
import re
import struct
import warnings
from dataclasses import dataclass

import cv2
import numpy as np
import pillow_heif
from numpy.typing import NDArray
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
from PIL.JpegImagePlugin import JpegImageFile

from service.errors import OutOfRange, TooLarge, UnknownKind, Unreadable

Pixels = NDArray[np.uint8]

# Whoever decodes runs in a pool of our own, one photo a thread: two decoders that bring more threads are told not to.
pillow_heif.options.DECODE_THREADS = 1
AvifImagePlugin.DEFAULT_MAX_THREADS = 1
# What a stranger's file makes Pillow remark upon (odd EXIF, odd APNG) is no news for our log.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)

_ORIENTATION, _EXIF_BLOCK, _FOCAL_35MM = 274, 0x8769, 41989
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
_BMP_HEADERS = {12, 40, 52, 56, 64, 108, 124}
# Ordinary progressive files have about ten. Each is a pass over the whole picture and may cost but 20 bytes of body.
_MAX_JPEG_SCANS = 100
_MAX_JPEG_SEGMENTS = 1000
# Markers whose segments carry a length: not the stuffed zero, the restarts, start, end and TEM.
_JPEG_MARKER = re.compile(rb"\xff+[^\x00\x01\xd0-\xd9\xff]")
# The plugins' own classes: Image.open would ask every plugin of the process, and warns by a limit that is not ours.
_PILLOW: dict[str, type[ImageFile.ImageFile]] = {
    "jpeg": JpegImageFile,
    "png": PngImagePlugin.PngImageFile,
    "webp": WebPImagePlugin.WebPImageFile,
    "bmp": BmpImagePlugin.BmpImageFile,
    "gif": GifImagePlugin.GifImageFile,
    "tiff": TiffImagePlugin.TiffImageFile,
    "avif": AvifImagePlugin.AvifImageFile,
}
KINDS = (*_PILLOW, "heic")


@dataclass(frozen=True)
class PictureLimits:
    """What is read at all: pixels in all, and the shortest and longest side in pixels."""

    max_pixels: int
    min_side: int
    max_side: int


@dataclass(frozen=True)
class Picture:
    """A decoded photo.

    pixels: (height, width, 3) uint8, RGB, upright.
    focal_35mm: EXIF's focal length in millimetres of a 35 mm camera, or None where it is not told.
    kind: which of KINDS the bytes were.
    """

    pixels: Pixels
    focal_35mm: float | None
    kind: str


def beginning(body: bytes) -> str:
    """What came, for whoever sent something else than a picture or a clip."""
    return f"bytes that begin with {body[:12]!r}"


def kind_of(body: bytes) -> str | None:
    """Which of KINDS the first bytes claim to be, or None."""
    if body.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if body.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if body.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    if body[:4] == b"RIFF" and body[8:12] == b"WEBP":
        return "webp"
    if body.startswith((b"II*\0", b"MM\0*")):
        return "tiff"
    if body.startswith(b"BM") and int.from_bytes(body[14:18], "little") in _BMP_HEADERS:
        return "bmp"
    if body[4:8] == b"ftyp":
        end = min(int.from_bytes(body[:4], "big"), 256)
        brands = {body[8:12]} | {body[at : at + 4] for at in range(16, end, 4)}
        if brands & {b"avif", b"avis"}:
            return "avif"
        if brands & _HEIC_BRANDS:
            return "heic"
    return None


def moves(body: bytes) -> bool:
    """Whether it is a GIF of more than one frame, which somebody may rather have read as a clip."""
    if kind_of(body) != "gif":
        return False
    try:
        return bool(GifImagePlugin.GifImageFile(io.BytesIO(body)).is_animated)
    except Exception:  # whoever reads it says what is wrong with it
        return False


def read_picture(body: bytes, limits: PictureLimits) -> Picture:
    """Decodes one photo; of an animation or a stack of pages, the first.

    Transparent pixels come out over white: cut-out photos are made for, and looked at on, white pages, and a dark rim
    would be taken for clothing. Colour profiles are not applied. 16 bits become 8.

    Raises:
        Unreadable: an empty body; bytes that begin as one of KINDS, but are broken or cut off.
        UnknownKind: bytes that are none of KINDS.
        TooLarge, OutOfRange: more pixels or longer sides, or shorter sides, than the limits; told by the header.
    """
    if not body:
        raise Unreadable("`image` is empty: 0 bytes came", field="image", limit="a whole picture")
    kind = kind_of(body)
    if kind is None:
        raise UnknownKind(
            f"`image` is none of {', '.join(KINDS)}; got {beginning(body)}", field="image", limit=list(KINDS)
        )
    try:
        if kind == "jpeg":
            pixels, orientation, focal = _read_jpeg(body, limits)
        elif kind == "heic":
            pixels, orientation, focal = _read_heic(body, limits)
        else:
            pixels, orientation, focal = _read_with_pillow(kind, body, limits)
    except (Unreadable, TooLarge, OutOfRange, MemoryError):
        raise
    except Exception as error:  # a decoder fed with strangers' bytes raises nearly anything
        message = f"`image` begins as {kind}, but is broken or cut off"
        raise Unreadable(message, field="image", limit="a whole picture") from error
    return Picture(upright(pixels, orientation), focal, kind)


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Turns stored pixels the way that they are looked at.

    Args:
        pixels: (height, width, 3) uint8.
        orientation: EXIF's value, 1 to 8; 5 to 8 swap width and height. Others count as 1, as viewers have it.
    """
    if orientation == 2:
        return _array(cv2.flip(pixels, 1))
    if orientation == 3:
        return _array(cv2.rotate(pixels, cv2.ROTATE_180))
    if orientation == 4:
        return _array(cv2.flip(pixels, 0))
    if orientation == 5:
        return _array(cv2.transpose(pixels))
    if orientation == 6:
        return _array(cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE))
    if orientation == 7:
        return _array(cv2.rotate(cv2.transpose(pixels), cv2.ROTATE_180))
    if orientation == 8:
        return _array(cv2.rotate(pixels, cv2.ROTATE_90_COUNTERCLOCKWISE))
    return pixels


def _array(picture: cv2.typing.MatLike) -> Pixels:
    return np.asarray(picture, np.uint8)


def _check_size(width: int, height: int, limits: PictureLimits) -> None:
    size = f"`image` is {width} x {height} pixels"
    if width * height > limits.max_pixels:
        message = f"{size}, {width * height} in all; at most {limits.max_pixels} are read"
        raise TooLarge(message, field="image", limit=limits.max_pixels)
    if max(width, height) > limits.max_side:
        raise TooLarge(f"{size}; a side may have at most {limits.max_side}", field="image", limit=limits.max_side)
    if min(width, height) < limits.min_side:
        raise OutOfRange(f"{size}; a side must have at least {limits.min_side}", field="image", limit=limits.min_side)


# ---- JPEG: OpenCV is nearly twice as fast as Pillow, but its versions differ on files that are cut off.


def _read_jpeg(body: bytes, limits: PictureLimits) -> tuple[Pixels, int, float | None]:
    header = _jpeg_header(body)
    _check_size(header.width, header.height, limits)
    # Inside a scan FF D9 cannot occur, so the first whole picture has one behind its first scan's start.
    if body.rfind(b"\xff\xd9") < header.first_scan:
        message = "`image` is a JPEG that is cut off: its end marker is missing"
        raise Unreadable(message, field="image", limit="a whole picture")
    if header.progressive and body.count(b"\xff\xda", header.first_scan) > _MAX_JPEG_SCANS:
        message = f"`image` is a JPEG of more than {_MAX_JPEG_SCANS} scans"
        raise Unreadable(message, field="image", limit=_MAX_JPEG_SCANS)
    exif = _parse_exif(header.exif)
    orientation, focal = _orientation(exif), _focal_35mm(exif)
    if header.components == 4:
        return _to_rgb(JpegImageFile(io.BytesIO(body))), orientation, focal
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(body, np.uint8), flags)
    if pixels is None or pixels.shape != (header.height, header.width, 3):
        raise ValueError("the decoder gave up")
    return _array(pixels), orientation, focal


@dataclass(frozen=True)
class _JpegHeader:
    width: int
    height: int
    components: int
    progressive: bool
    exif: bytes
    first_scan: int  # where the first scan's marker is, in bytes


def _jpeg_header(body: bytes) -> _JpegHeader:
    """Walks the segments up to the first scan. Raises ValueError where there is no frame before it."""
    frame: tuple[int, int, int, bool] | None = None
    exif = b""
    at = 2
    for _ in range(_MAX_JPEG_SEGMENTS):
        found = _JPEG_MARKER.search(body, at)
        if found is None:
            break
        marker, at = found[0][-1], found.end()
        if marker == 0xDA:
            if frame is None:
                break
            return _JpegHeader(*frame, exif, found.start())
        length = int.from_bytes(body[at : at + 2], "big")
        payload = body[at + 2 : at + length]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width, components = struct.unpack(">xHHB", payload[:6])
            frame = (width, height, components, marker not in (0xC0, 0xC1))
        elif marker == 0xE1 and not exif and payload.startswith(b"Exif\0\0"):
            exif = payload
        at += length
    raise ValueError("no frame before the first scan")


# ---- Everything else: Pillow and libheif.


def _read_with_pillow(kind: str, body: bytes, limits: PictureLimits) -> tuple[Pixels, int, float | None]:
    if kind == "webp":  # its decoder sets the canvas aside as soon as it is made
        _check_size(*_webp_size(body), limits)
    try:
        image = _PILLOW[kind](io.BytesIO(body))
    except Image.DecompressionBombError as error:
        raise TooLarge(f"`image`: {error}", field="image", limit=limits.max_pixels) from error
    _check_size(*image.size, limits)
    exif = _exif_of(image)
    # Pillow turns TIFFs, and only them, upright as it loads them.
    orientation, focal = 1 if kind == "tiff" else _orientation(exif), _focal_35mm(exif)
    return _to_rgb(image), orientation, focal


def _webp_size(body: bytes) -> tuple[int, int]:
    chunk = body[12:16]
    if chunk == b"VP8X":
        return 1 + int.from_bytes(body[24:27], "little"), 1 + int.from_bytes(body[27:30], "little")
    if chunk == b"VP8L":
        bits = int.from_bytes(body[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack("<HH", body[26:30])
    return width & 0x3FFF, height & 0x3FFF


def _read_heic(body: bytes, limits: PictureLimits) -> tuple[Pixels, int, float | None]:
    heif = pillow_heif.open_heif(io.BytesIO(body))
    width, height = heif.size
    _check_size(width, height, limits)
    exif = _parse_exif(heif.info.get("exif") or b"")
    # libheif has turned it by the container's own boxes; the orientation in EXIF repeats them.
    return _to_rgb(heif.to_pillow()), 1, _focal_35mm(exif)


def _to_rgb(image: Image.Image) -> Pixels:
    """Any of Pillow's pixels as (height, width, 3) uint8 RGB."""
    image.load()
    if image.mode.startswith("I"):  # 16 bits, in Pillow's several spellings
        wide = np.asarray(image).clip(0, 65535)
        return np.repeat((wide.astype(np.uint32) >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
    if image.mode == "F":
        message = "`image` holds floating point numbers; 8 or 16 bits a channel are read"
        raise Unreadable(message, field="image", limit=[8, 16])
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image.getchannel("A"))
        return np.array(white)
    return np.array(image.convert("RGB"))


# ---- EXIF. A broken one is no reason to refuse the picture: what it does not tell is as if it were not there.


def _parse_exif(raw: bytes) -> Image.Exif:
    exif = Image.Exif()
    try:
        if raw:
            exif.load(raw)
    except Exception:  # as above: strangers' bytes
        return Image.Exif()
    return exif


def _exif_of(image: Image.Image) -> Image.Exif:
    try:
        return image.getexif()
    except Exception:
        return Image.Exif()


def _orientation(exif: Image.Exif) -> int:
    try:
        value = int(exif.get(_ORIENTATION, 1))
    except Exception:
        return 1
    return value if 1 <= value <= 8 else 1


def _focal_35mm(exif: Image.Exif) -> float | None:
    try:
        value = float(exif.get_ifd(_EXIF_BLOCK).get(_FOCAL_35MM, 0))
    except Exception:
        return None
    return value if 0 < value < 65535 else None
