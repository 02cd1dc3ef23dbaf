"""Clips encoded here, of every kind, whole and broken, against the stream of their frames."""

import struct
import threading
import weakref
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
import pytest
from av.video.stream import VideoStream

from service.errors import TooLarge, UnknownKind, Unreadable
from service.geometry.planes import Planes
from service.media.tones import HLG, PQ, tone_table
from service.media.videos import ClipLimits, Frame, open_clip

LIMITS = ClipLimits(max_pixels=4_000_000, max_frames=1000, max_seconds=60.0)
RED, GREEN, BLUE, GREY = (200, 30, 40), (40, 180, 60), (30, 50, 210), (128, 128, 128)
CODECS = {"mp4": "mpeg4", "mov": "mpeg4", "mkv": "mpeg4", "avi": "mpeg4", "webm": "libvpx", "gif": "gif"}
PIXEL = 65536  # one, in a display matrix


def quarters(width: int = 64, height: int = 48) -> np.ndarray:
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2], pixels[: height // 2, width // 2 :] = RED, GREEN
    pixels[height // 2 :, : width // 2], pixels[height // 2 :, width // 2 :] = BLUE, GREY
    return pixels


def film(
    path: Path,
    stamps_ms: Sequence[int],
    matrix: tuple[int, int, int, int] | None = None,
    size: tuple[int, int] = (64, 48),
    options: dict[str, str] | None = None,
    codec: str = "",
    kind: str = "yuv420p",
) -> Path:
    """Writes a clip of the four quarters, with a frame at each of the stamps. codec: another than the suffix's usual
    one; kind: of the pixels."""
    codec = codec or CODECS[path.suffix[1:]]
    with av.open(str(path), "w", options=options or {}) as container:
        stream = cast(VideoStream, container.add_stream(codec, rate=25))
        stream.width, stream.height = size
        stream.pix_fmt = "rgb8" if codec == "gif" else kind
        stream.bit_rate = 2_000_000
        stream.codec_context.time_base = Fraction(1, 25) if path.suffix == ".avi" else Fraction(1, 1000)
        for stamp in stamps_ms:
            frame = av.VideoFrame.from_ndarray(quarters(*size))
            frame.pts, frame.time_base = stamp // 40 if path.suffix == ".avi" else stamp, stream.codec_context.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    if matrix is not None:
        patch_matrix(path, matrix)
    return path


def patch_matrix(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Writes where stored x and stored y point when shown into the track's header of an MP4."""
    body = bytearray(path.read_bytes())
    at = body.index(b"tkhd") + 4 + 40
    a, b, c, d = (value * PIXEL for value in matrix)
    body[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(body)


def frames_of(path: Path, limits: ClipLimits = LIMITS) -> list[Frame]:
    with open_clip(path, limits) as clip:
        return list(clip)


def corners(pixels: np.ndarray) -> np.ndarray:
    return np.array([pixels[y, x] for y, x in ((8, 8), (8, -9), (-9, -9), (-9, 8))], int)


@pytest.mark.parametrize("suffix", CODECS)
def test_every_kind_gives_its_frames_in_rgb_with_times_from_zero(suffix: str, tmp_path: Path) -> None:
    path = film(tmp_path / f"clip.{suffix}", range(0, 400, 40))
    with open_clip(path, LIMITS) as clip:
        frames = list(clip)
        assert (clip.width, clip.height) == (64, 48)
        assert clip.rate == pytest.approx(25, rel=0.03)
        assert clip.frames in (None, 10)
        assert clip.duration == pytest.approx(0.4, abs=0.05)
    assert [frame.index for frame in frames] == list(range(10))
    np.testing.assert_allclose([frame.time_s for frame in frames], np.arange(10) * 0.04, atol=0.0101)
    for frame in frames:
        assert frame.pixels.shape == (48, 64, 3)
        assert frame.pixels.dtype == np.uint8
        assert frame.pixels.flags.c_contiguous
        # A GIF of FFmpeg's fixed palette has but four shades of blue.
        np.testing.assert_allclose(corners(frame.pixels), corners(quarters()), atol=64 if suffix == "gif" else 24)


def ours_and_ffmpegs(path: Path) -> tuple[Frame, np.ndarray]:
    """The first frame, and what FFmpeg makes red, green and blue of it, as it is stored."""
    with av.open(str(path)) as container:
        theirs = next(iter(container.decode(video=0))).to_ndarray(format="rgb24")
    return frames_of(path)[0], theirs


@pytest.mark.parametrize(("codec", "kind"), [("mpeg4", "yuv420p"), ("mjpeg", "yuvj420p")])
def test_planes_come_as_they_are_and_mean_what_ffmpeg_makes_of_them(codec: str, kind: str, tmp_path: Path) -> None:
    frame, theirs = ours_and_ffmpegs(film(tmp_path / "clip.mov", range(0, 120, 40), codec=codec, kind=kind))
    assert isinstance(frame.picture, Planes)
    assert np.abs(frame.pixels.astype(int) - theirs).max() <= 4


def test_planes_are_turned_like_pixels(tmp_path: Path) -> None:
    path = film(tmp_path / "clip.mp4", range(0, 120, 40))
    patch_matrix(path, (0, 1, -1, 0))
    frame, theirs = ours_and_ffmpegs(path)
    assert isinstance(frame.picture, Planes)
    assert np.abs(frame.pixels.astype(int) - np.rot90(theirs, -1)).max() <= 4


def test_a_gif_has_no_planes(tmp_path: Path) -> None:
    assert isinstance(frames_of(film(tmp_path / "clip.gif", range(0, 120, 40)))[0].picture, np.ndarray)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "webm"])
def test_uneven_times_are_told_as_they_are(suffix: str, tmp_path: Path) -> None:
    stamps = [500, 533, 700, 701, 1000, 1400]  # starts late, stumbles, and waits
    frames = frames_of(film(tmp_path / f"clip.{suffix}", stamps))
    np.testing.assert_allclose([frame.time_s for frame in frames], (np.array(stamps) - 500) / 1000, atol=0.0011)


Turn = tuple[tuple[int, int, int, int], Callable[[np.ndarray], np.ndarray]]
TURNS: dict[str, Turn] = {  # where stored x and stored y point when shown, and how the shown picture is stored
    "as it is": ((1, 0, 0, 1), lambda p: p),
    "a quarter to the right": ((0, 1, -1, 0), lambda p: np.rot90(p)),
    "half": ((-1, 0, 0, -1), lambda p: p[::-1, ::-1]),
    "a quarter to the left": ((0, -1, 1, 0), lambda p: np.rot90(p, -1)),
    "mirrored": ((-1, 0, 0, 1), lambda p: p[:, ::-1]),
    "upside down in a mirror": ((1, 0, 0, -1), lambda p: p[::-1]),
    "transposed": ((0, 1, 1, 0), lambda p: p.transpose(1, 0, 2)),
    "transposed the other way": ((0, -1, -1, 0), lambda p: p[::-1, ::-1].transpose(1, 0, 2)),
}


@pytest.mark.parametrize("turn", TURNS)
def test_the_display_matrix_is_applied(turn: str, tmp_path: Path) -> None:
    matrix, stored = TURNS[turn]
    path = film(tmp_path / "clip.mp4", range(0, 120, 40), matrix)
    with open_clip(path, LIMITS) as clip:
        frames = list(clip)
    assert frames[0].pixels.shape == (clip.height, clip.width, 3)
    # What was filmed is what lies in the file; stored back again, the shown frame must be that.
    np.testing.assert_allclose(corners(stored(frames[-1].pixels)), corners(quarters()), atol=24)


def test_more_decoder_threads_give_the_same_frames(tmp_path: Path) -> None:
    path = film(tmp_path / "clip.webm", range(0, 800, 40))
    with open_clip(path, LIMITS, threads=2) as clip:
        together = list(clip)
    for one, other in zip(frames_of(path), together, strict=True):
        assert one.time_s == other.time_s
        np.testing.assert_array_equal(one.pixels, other.pixels)


def test_no_frame_is_kept_once_the_next_is_asked_for(tmp_path: Path) -> None:
    with open_clip(film(tmp_path / "clip.mkv", range(0, 400, 40)), LIMITS) as clip:
        frames = iter(clip)
        pixels = weakref.ref(next(frames).pixels)
        next(frames)
        assert pixels() is None


def test_a_clip_may_be_left_in_the_middle_and_closed_twice(tmp_path: Path) -> None:
    with open_clip(film(tmp_path / "clip.mkv", range(0, 400, 40)), LIMITS) as clip:
        assert next(iter(clip)).index == 0
        clip.close()


def test_an_empty_file_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").touch()
    with pytest.raises(Unreadable, match="`clip` is empty") as caught:
        open_clip(tmp_path / "clip.mp4", LIMITS)
    assert caught.value.field == "clip"


@pytest.mark.parametrize(
    "content",
    [
        b"hello, I am a text",
        b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/stolen.ts\n",
        b"ffconcat version 1.0\nfile /etc/hostname\n",
        b"\xff\xd8\xff\xe0 a photo",
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        b"RIFF\0\0\0\0WAVEfmt ",
    ],
)
def test_what_is_no_clip_is_of_unknown_kind(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(content)
    with pytest.raises(UnknownKind, match="none of mp4, quicktime") as caught:
        open_clip(tmp_path / "clip.mp4", LIMITS)
    assert caught.value.field == "clip"
    assert repr(content[:12]) in str(caught.value)


def test_a_missing_file_is_the_callers_own_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_clip(tmp_path / "nothing.mp4", LIMITS)


@pytest.mark.parametrize("head", [b"\0\0\0\x20ftypisom", b"\x1a\x45\xdf\xa3", b"RIFF\0\1\0\0AVI ", b"GIF89a"])
def test_a_head_without_a_body_is_unreadable(head: bytes, tmp_path: Path) -> None:
    (tmp_path / "clip").write_bytes(head + bytes(200))
    with pytest.raises(Unreadable) as caught:
        open_clip(tmp_path / "clip", LIMITS)
    assert caught.value.field == "clip"


def test_sound_alone_has_no_video_track(tmp_path: Path) -> None:
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate, frame.pts = 8000, 0
        container.mux(stream.encode(frame))
    with pytest.raises(Unreadable, match="no video track"):
        open_clip(path, LIMITS)


def test_a_video_track_without_frames_is_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    with pytest.raises(Unreadable, match=r"without frames|cut off"):
        open_clip(path, LIMITS)


def test_too_many_pixels_are_refused_at_once(tmp_path: Path) -> None:
    path = film(tmp_path / "clip.mp4", range(0, 400, 40))
    with pytest.raises(TooLarge, match=r"64 x 48 pixels, 3072 in all; at most 3000") as caught:
        open_clip(path, ClipLimits(3000, 1000, 60))
    assert (caught.value.field, caught.value.limit) == ("clip", 3000)


def test_a_header_that_tells_too_many_frames_or_seconds_is_refused_at_once(tmp_path: Path) -> None:
    path = film(tmp_path / "clip.mp4", range(0, 4000, 40))
    with pytest.raises(TooLarge, match="100 frames; at most 99") as caught:
        open_clip(path, ClipLimits(4000, 99, 60))
    assert caught.value.limit == 99
    with pytest.raises(TooLarge, match=r"lasts 4.00 s; at most 3.5 s"):
        open_clip(path, ClipLimits(4000, 100, 3.5))
    assert len(frames_of(path, ClipLimits(4000, 100, 4.0))) == 100


def test_too_many_frames_are_refused_when_they_come(tmp_path: Path) -> None:
    path = film(tmp_path / "clip.mkv", range(0, 400, 40))
    seen = []
    with open_clip(path, ClipLimits(4000, 6, 60)) as clip, pytest.raises(TooLarge, match="more than 6 frames"):
        seen += [frame.index for frame in clip]
    with open_clip(path, ClipLimits(4000, 6, 60)) as clip, pytest.raises(TooLarge):
        for frame in clip:
            seen.append(frame.index)
    assert seen == list(range(6))


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "webm", "gif"])
def test_a_cut_tail_is_told_after_the_frames_before_it(suffix: str, tmp_path: Path) -> None:
    # The index first, as phones and the web have it: without it an MP4 cut short is no clip at all.
    fast_start = {"movflags": "faststart"} if suffix == "mp4" else None
    path = film(tmp_path / f"clip.{suffix}", range(0, 4000, 40), options=fast_start)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * 0.7)])
    seen = []
    with open_clip(path, LIMITS) as clip, pytest.raises(Unreadable, match="`clip` is broken after frame") as caught:
        for frame in clip:
            seen.append(frame.index)
    assert 10 < len(seen) < 100
    assert seen == list(range(len(seen)))
    assert f"after frame {seen[-1]}" in str(caught.value)


def test_bytes_behind_an_mp4_are_none_of_its(tmp_path: Path) -> None:
    path = film(tmp_path / "clip.mp4", range(0, 400, 40))
    for more in (b"junk" * 100, b"\0" * 100, b"\xff" * 33):
        longer = tmp_path / "longer.mp4"
        longer.write_bytes(path.read_bytes() + more)
        assert len(frames_of(longer)) == 10


def test_an_mp4_without_its_index_is_unreadable(tmp_path: Path) -> None:
    path = film(tmp_path / "clip.mp4", range(0, 400, 40))
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(Unreadable):
        open_clip(path, LIMITS)


def test_a_change_of_size_ends_the_clip_with_the_reason(tmp_path: Path) -> None:
    small = film(tmp_path / "small.webm", range(0, 200, 40))
    large = film(tmp_path / "large.webm", range(0, 200, 40), size=(96, 80))
    path = tmp_path / "clip.webm"
    with av.open(str(path), "w") as container, av.open(str(small)) as first, av.open(str(large)) as second:
        stream = container.add_stream_from_template(first.streams.video[0])
        for delay, source in ((0, first), (200, second)):
            for packet in source.demux(video=0):
                if packet.pts is not None:
                    packet.stream, packet.pts, packet.dts = stream, packet.pts + delay, packet.pts + delay
                    container.mux(packet)
    seen = []
    with open_clip(path, LIMITS) as clip, pytest.raises(Unreadable, match=r"after frame 4: .* 64 x 48 to 96 x 80"):
        for frame in clip:
            seen.append(frame.index)
    assert seen == [0, 1, 2, 3, 4]


def test_a_still_gif_is_a_clip_of_one_frame(tmp_path: Path) -> None:
    frames = frames_of(film(tmp_path / "clip.gif", [0]))
    assert [(frame.index, frame.time_s) for frame in frames] == [(0, 0.0)]


def test_a_clip_that_another_thread_closes_ends_and_does_not_break(tmp_path: Path) -> None:
    with open_clip(film(tmp_path / "clip.mkv", range(0, 400, 40)), LIMITS) as clip:
        frames = iter(clip)
        next(frames)
        closer = threading.Thread(target=clip.close)
        closer.start()
        closer.join(5)
        assert not closer.is_alive()
        assert next(frames, None) is None


# ---- Ten bits, and high dynamic range


@pytest.mark.parametrize("codec", ["libx265", "libsvtav1", "libvpx-vp9", "libx264"])
def test_codecs_of_the_web_and_of_phones_are_read(codec: str, tmp_path: Path) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV cannot write {codec}")
    frames = frames_of(deep_film(tmp_path / ("clip.webm" if codec == "libvpx-vp9" else "clip.mp4"), codec))
    assert len(frames) == 6
    for frame in frames:
        assert frame.pixels.dtype == np.uint8 and frame.pixels.shape == (96, 128, 3)
        # Half of the range is half of the range; codecs may be off by a little.
        np.testing.assert_allclose(frame.pixels[10, 10], 128, atol=6)


def deep_film(path: Path, codec: str, transfer: str = "bt709") -> Path:
    """Six frames of ten bits (VP9: eight, its builds know no more): half bright above, white below."""
    depth = "yuv420p" if codec == "libvpx-vp9" else "yuv420p10le"
    shade = np.full((96, 128, 3), 65535, np.uint16)
    shade[:64] = 32768
    options = {"preset": "ultrafast"} if codec.startswith("libx26") else {"preset": "12"} if "svt" in codec else {}
    if codec == "libx265":
        colours = f"colorprim=bt2020:transfer={transfer}:colormatrix=bt2020nc" if transfer != "bt709" else "info=0"
        options["x265-params"] = f"log-level=none:{colours}"
    with av.open(str(path), "w") as container:
        stream = cast(VideoStream, container.add_stream(codec, rate=25, options=options))
        stream.width, stream.height, stream.pix_fmt = 128, 96, depth
        for n in range(6):
            frame = av.VideoFrame.from_ndarray(shade, format="rgb48le").reformat(format=depth)
            frame.pts = n
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("transfer", ["smpte2084", "arib-std-b67"])
def test_high_dynamic_range_comes_out_as_the_ordinary_one(transfer: str, tmp_path: Path) -> None:
    if "libx265" not in av.codecs_available:
        pytest.skip("this PyAV cannot write HEVC")
    table = tone_table(PQ if transfer == "smpte2084" else HLG)
    assert table is not None
    plain = frames_of(deep_film(tmp_path / "plain.mp4", "libx265"))
    mapped = frames_of(deep_film(tmp_path / "hdr.mp4", "libx265", transfer))
    assert len(mapped) == 6
    for one, other in zip(plain, mapped, strict=True):
        assert abs(int(other.pixels[10, 10, 1]) - int(table[one.pixels[10, 10, 1]])) <= 8
        assert abs(int(other.pixels[10, 10, 1]) - int(one.pixels[10, 10, 1])) > 5


# ---- Files that lie


@pytest.mark.parametrize("count", [0, 3, 12, 1000])
def test_a_frame_count_that_lies_ends_in_whole_frames_or_the_reason(count: int, tmp_path: Path) -> None:
    path = film(tmp_path / "clip.mp4", range(0, 400, 40))
    body = bytearray(path.read_bytes())
    at = body.index(b"stsz") + 12
    assert struct.unpack(">I", body[at : at + 4]) == (10,)
    body[at : at + 4] = struct.pack(">I", count)
    path.write_bytes(body)
    seen: list[int] = []
    try:
        with open_clip(path, LIMITS) as clip:
            for frame in clip:
                seen.append(frame.index)
    except Unreadable as error:
        assert error.field == "clip"
    assert seen == list(range(min(count, 10)))[: len(seen)]
    if 0 < count <= 10:
        assert len(seen) == count
