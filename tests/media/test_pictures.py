"""Photos drawn here, in every kind, whole and broken, against the reader."""

import io
import struct
import threading
import zlib
from collections.abc import Callable

import cv2
import numpy as np
import pillow_heif
import pytest
from PIL import Image

from service.errors import OutOfRange, Refused, TooLarge, UnknownKind, Unreadable
from service.media import pictures
from service.media.pictures import KINDS, PictureLimits, kind_of, moves, read_picture, upright

LIMITS = PictureLimits(max_pixels=50_000_000, min_side=16, max_side=16_384)
RED, GREEN, BLUE, GREY = (200, 30, 40), (40, 180, 60), (30, 50, 210), (128, 128, 128)


def quarters(width: int = 48, height: int = 32) -> np.ndarray:
    """Red, green, blue, grey from the top left: each of the eight ways to turn it looks different."""
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2], pixels[: height // 2, width // 2 :] = RED, GREEN
    pixels[height // 2 :, : width // 2], pixels[height // 2 :, width // 2 :] = BLUE, GREY
    return pixels


def coded(pixels: np.ndarray, kind: str, **options: object) -> bytes:
    body = io.BytesIO()
    image = Image.fromarray(pixels)
    if kind == "heic":
        pillow_heif.from_pillow(image).save(body, quality=95, **options)
    else:
        image.save(body, kind, **({"quality": 95} if kind in ("jpeg", "webp", "avif") else {}) | options)
    return body.getvalue()


def exif(orientation: int = 1, focal_35mm: int | None = None) -> bytes:
    tags = Image.Exif()
    tags[274] = orientation
    if focal_35mm is not None:
        tags.get_ifd(0x8769)[41989] = focal_35mm
    return tags.tobytes()


def corners(pixels: np.ndarray) -> list[tuple[int, ...]]:
    """The colours near the four corners, clockwise from the top left."""
    return [tuple(int(c) for c in pixels[y, x]) for y, x in ((6, 6), (6, -7), (-7, -7), (-7, 6))]


def assert_near(actual: np.ndarray, expected: np.ndarray, tolerance: int = 8) -> None:
    assert actual.shape == expected.shape
    # The middle of each quarter: codecs smear the edges between them.
    assert all(
        np.abs(np.subtract(a, e)).max() <= tolerance for a, e in zip(corners(actual), corners(expected), strict=True)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_comes_out_as_upright_rgb(kind: str) -> None:
    picture = read_picture(coded(quarters(), kind), LIMITS)
    assert picture.kind == kind
    assert picture.pixels.dtype == np.uint8
    assert picture.focal_35mm is None
    assert_near(picture.pixels, quarters())


@pytest.mark.parametrize("kind", ["png", "bmp", "tiff"])
def test_what_is_coded_without_loss_comes_out_as_it_was(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (33, 47, 3), np.uint8)
    np.testing.assert_array_equal(read_picture(coded(noise, kind), LIMITS).pixels, noise)


TURNED_BACK = {  # how a viewer's picture is stored for each orientation
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: np.rot90(p),
    7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
    8: lambda p: np.rot90(p, -1),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "tiff", "avif"])
def test_all_eight_orientations_come_out_upright(kind: str, orientation: int) -> None:
    stored = np.ascontiguousarray(TURNED_BACK[orientation](quarters()))
    picture = read_picture(coded(stored, kind, exif=exif(orientation)), LIMITS)
    assert_near(picture.pixels, quarters())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turning_upright_undoes_how_it_was_stored(orientation: int) -> None:
    picture = np.random.default_rng(1).integers(0, 256, (5, 7, 3), np.uint8)
    stored = np.ascontiguousarray(TURNED_BACK[orientation](picture))
    kept = stored.copy()
    np.testing.assert_array_equal(upright(stored, orientation), picture)
    np.testing.assert_array_equal(stored, kept)


def test_a_cmyk_jpeg_is_turned_upright_like_any_other() -> None:
    stored = Image.fromarray(np.ascontiguousarray(np.rot90(quarters()))).convert("CMYK")
    body = io.BytesIO()
    stored.save(body, "jpeg", quality=95, exif=exif(6))
    assert_near(read_picture(body.getvalue(), LIMITS).pixels, quarters(), tolerance=16)


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "tiff", "heic", "avif"])
def test_the_focal_length_is_read_from_exif(kind: str) -> None:
    assert read_picture(coded(quarters(), kind, exif=exif(1, 28)), LIMITS).focal_35mm == 28.0


def test_a_focal_length_of_zero_is_none() -> None:
    assert read_picture(coded(quarters(), "jpeg", exif=exif(1, 0)), LIMITS).focal_35mm is None


@pytest.mark.parametrize("cut", [6, 8, 12, 20, 40])
def test_broken_exif_does_not_cost_the_picture(cut: int) -> None:
    whole = coded(quarters(), "jpeg", exif=exif(6, 28))
    broken = bytearray(whole)
    start = whole.index(b"Exif\0\0")
    broken[start + cut : start + cut + 16] = b"\xff" * 16
    assert read_picture(bytes(broken), LIMITS).pixels.shape[2] == 3


def test_both_jpeg_decoders_see_the_same_grey_and_colour() -> None:
    for mode in ("L", "RGB"):
        body = io.BytesIO()
        Image.fromarray(quarters()).convert(mode).save(body, "jpeg", quality=95)
        by_pillow = np.asarray(Image.open(io.BytesIO(body.getvalue())).convert("RGB"))
        np.testing.assert_allclose(read_picture(body.getvalue(), LIMITS).pixels, by_pillow, atol=4)


def test_progressive_jpegs_and_jpegs_with_a_tail_are_read() -> None:
    body = coded(quarters(), "jpeg", progressive=True) + b"tail of a phone's maker" * 50
    assert_near(read_picture(body, LIMITS).pixels, quarters())


def test_transparent_pixels_come_out_white() -> None:
    rgba = np.dstack([quarters(), np.full((32, 48), 255, np.uint8)])
    rgba[:16, :24, 3] = 0
    rgba[:16, 24:, 3] = 128
    pixels = read_picture(coded(rgba, "png"), LIMITS).pixels
    assert tuple(pixels[4, 4]) == (255, 255, 255)
    np.testing.assert_allclose(pixels[4, -4], np.add(GREEN, 255) / 2, atol=1)
    assert tuple(pixels[-4, -4]) == GREY


def test_only_a_gif_of_several_frames_moves() -> None:
    one, other = Image.fromarray(quarters()), Image.fromarray(quarters()[:, ::-1])
    still, moving, page = io.BytesIO(), io.BytesIO(), io.BytesIO()
    one.save(still, "gif")
    one.save(moving, "gif", save_all=True, append_images=[other])
    one.save(page, "tiff", save_all=True, append_images=[other])
    assert [moves(body.getvalue()) for body in (still, moving, page)] == [False, True, False]
    assert not moves(b"GIF89a") and not moves(b"")


def test_a_transparent_palette_comes_out_white() -> None:
    image = Image.fromarray(quarters()).quantize(4)
    body = io.BytesIO()
    image.save(body, "gif", transparency=image.getpixel((2, 2)))
    pixels = read_picture(body.getvalue(), LIMITS).pixels
    assert tuple(pixels[2, 2]) == (255, 255, 255)
    assert tuple(pixels[-2, -2]) == GREY


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_sixteen_bits_become_eight(kind: str) -> None:
    grey = np.linspace(0, 65535, 32 * 48).reshape(32, 48).astype(np.uint16)
    pixels = read_picture(coded(grey, kind), LIMITS).pixels
    np.testing.assert_array_equal(pixels, np.repeat((grey >> 8).astype(np.uint8)[:, :, None], 3, axis=2))


def test_of_an_animation_the_first_frame_is_read() -> None:
    first, second = Image.fromarray(quarters()), Image.fromarray(quarters()[::-1].copy())
    for kind in ("gif", "webp", "png", "tiff"):
        body = io.BytesIO()
        first.save(body, kind, save_all=True, append_images=[second])
        assert_near(read_picture(body.getvalue(), LIMITS).pixels, quarters(), tolerance=24)


def test_an_empty_body_is_unreadable() -> None:
    with pytest.raises(Unreadable, match=r"`image` is empty") as caught:
        read_picture(b"", LIMITS)
    assert caught.value.field == "image"


@pytest.mark.parametrize(
    "body",
    [
        b"hello, I am a text",
        b"BMW is no bitmap, but begins like one",
        b"{}",
        b"\0" * 500,
        b"%PDF-1.7",
        b"\xff",
        b"RIFF",
    ],
)
def test_what_is_no_picture_is_of_unknown_kind(body: bytes) -> None:
    assert kind_of(body) is None
    with pytest.raises(UnknownKind, match="none of jpeg, png") as caught:
        read_picture(body, LIMITS)
    assert repr(body[:12]) in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_file_cut_short_is_unreadable(kind: str, share: float) -> None:
    noise = np.random.default_rng(2).integers(0, 256, (64, 64, 3), np.uint8)
    body = coded(noise, kind)
    with pytest.raises(Unreadable) as caught:
        read_picture(body[: int(len(body) * share)], LIMITS)
    assert caught.value.field == "image"


@pytest.mark.parametrize("kind", KINDS)
def test_mangled_bytes_are_refused_or_read_but_never_crash(kind: str) -> None:
    rng = np.random.default_rng(3)
    whole = coded(quarters(), kind)
    outcomes = 0
    for _ in range(40):
        body = bytearray(whole)
        for at in rng.integers(0, len(body), 4):
            body[at] = rng.integers(0, 256)
        try:
            read_picture(bytes(body), LIMITS)
        except Refused as refused:
            assert refused.field == "image"
        outcomes += 1
    assert outcomes == 40


def png_header(width: int, height: int) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def jpeg_header(width: int, height: int) -> bytes:
    body = bytearray(coded(quarters(), "jpeg"))
    at = body.index(b"\xff\xc0")
    body[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(body)


def gif_header(width: int, height: int) -> bytes:
    body = bytearray(coded(quarters(), "gif"))
    body[6:10] = struct.pack("<HH", width, height)
    return bytes(body)


def webp_header(width: int, height: int) -> bytes:
    vp8x = b"VP8X" + struct.pack("<II", 10, 0) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", 4 + len(vp8x)) + b"WEBP" + vp8x


def bmp_header(width: int, height: int) -> bytes:
    body = bytearray(coded(quarters(), "bmp"))
    body[18:26] = struct.pack("<ii", width, height)
    return bytes(body)


@pytest.mark.parametrize("make", [png_header, jpeg_header, gif_header, webp_header, bmp_header])
def test_twenty_thousand_by_twenty_thousand_is_refused_from_its_header(
    make: Callable[[int, int], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def decoded(*_: object) -> None:
        raise AssertionError("pixels were decoded")

    monkeypatch.setattr(pictures, "_to_rgb", decoded)
    monkeypatch.setattr(cv2, "imdecode", decoded)
    with pytest.raises(
        TooLarge, match=r"`image` is 20000 x 20000 pixels, 400000000 in all; at most 50000000"
    ) as caught:
        read_picture(make(20_000, 20_000), LIMITS)
    assert (caught.value.field, caught.value.limit) == ("image", 50_000_000)


def test_a_side_that_is_too_long_is_refused() -> None:
    with pytest.raises(TooLarge, match="at most 16384") as caught:
        read_picture(png_header(20_000, 20), LIMITS)
    assert caught.value.limit == 16_384


@pytest.mark.parametrize("size", [(1, 1), (15, 400), (400, 15)])
def test_a_side_that_is_too_short_is_out_of_range(size: tuple[int, int]) -> None:
    with pytest.raises(OutOfRange, match="at least 16") as caught:
        read_picture(coded(np.zeros((*size, 3), np.uint8), "png"), LIMITS)
    assert (caught.value.field, caught.value.limit) == ("image", 16)


def test_sixteen_pixels_are_enough() -> None:
    assert read_picture(coded(np.zeros((16, 16, 3), np.uint8), "jpeg"), LIMITS).pixels.shape == (16, 16, 3)


def test_a_progressive_jpeg_of_countless_scans_is_refused() -> None:
    body = coded(quarters(), "jpeg", progressive=True)
    scan = body[body.index(b"\xff\xda") : body.index(b"\xff\xda") + 12]
    with pytest.raises(Unreadable, match="more than 100 scans"):
        read_picture(body[:-2] + scan * 200 + body[-2:], LIMITS)


def test_floating_point_pixels_are_refused_with_the_reason() -> None:
    with pytest.raises(Unreadable, match="floating point"):
        read_picture(coded(np.zeros((32, 32), np.float32), "tiff"), LIMITS)


def test_many_threads_read_what_one_reads() -> None:
    bodies = [coded(quarters(), kind, **({} if kind in ("bmp", "gif") else {"exif": exif(3)})) for kind in KINDS] * 3
    alone = [read_picture(body, LIMITS).pixels for body in bodies]
    together: list[np.ndarray | None] = [None] * len(bodies)

    def read(number: int) -> None:
        together[number] = read_picture(bodies[number], LIMITS).pixels

    threads = [threading.Thread(target=read, args=(number,)) for number in range(len(bodies))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(alone, together, strict=True):
        assert other is not None
        np.testing.assert_array_equal(one, other)
