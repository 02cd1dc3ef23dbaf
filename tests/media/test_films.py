"""Films: pictures at their times, read back by the clip decoder."""

from __future__ import annotations

import io
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from service.errors import OutOfRange
from service.media import films
from service.media.films import Film, codec
from service.media.pictures import Pixels
from service.media.videos import ClipLimits, open_clip

LIMITS = ClipLimits(10**6, 100, 1000)


def grey(shade: int, width: int = 64, height: int = 48) -> Pixels:
    return np.full((height, width, 3), shade, np.uint8)


@pytest.mark.parametrize("name", films.CODECS)
@pytest.mark.parametrize("times", [[0.0, 1 / 30, 2 / 30, 3 / 30], [0.0, 0.04, 0.2, 0.21], [0.0, 1001 / 30000]])
def test_every_picture_comes_back_at_its_time(
    name: str, times: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(films, "codec", lambda: name)
    path = tmp_path / "film.mp4"
    with path.open("wb+") as file, Film(file, 30.0) as film:
        for n, time in enumerate(times):
            film.add(grey(40 + 50 * n), time)
    with open_clip(path, LIMITS) as clip:
        frames = list(clip)
    assert [frame.time_s for frame in frames] == pytest.approx(times, abs=1e-4)
    for n, frame in enumerate(frames):
        assert frame.pixels.mean() == pytest.approx(40 + 50 * n, abs=4)


@pytest.mark.parametrize("size", [(65, 48), (64, 49), (31, 17)])
def test_odd_sides_become_even_by_their_last_line(size: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    with path.open("wb+") as file, Film(file, 25.0) as film:
        film.add(grey(100, *size), 0.0)
    with open_clip(path, LIMITS) as clip:
        (frame,) = clip
    assert (clip.width, clip.height) == (size[0] + size[0] % 2, size[1] + size[1] % 2)
    assert np.ptp(frame.pixels.astype(int)) <= 6


def test_times_that_do_not_rise_are_put_one_after_another(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    with path.open("wb+") as file, Film(file, 25.0) as film:
        for time in (0.0, 0.0, 0.04):
            film.add(grey(100), time)
    with open_clip(path, LIMITS) as clip:
        assert len(list(clip)) == 3


def test_a_film_that_is_given_up_raises_nothing_more() -> None:
    file = io.BytesIO()
    with pytest.raises(RuntimeError, match="enough"), Film(file, 25.0) as film:
        film.add(grey(1), 0.0)
        file.close()
        raise RuntimeError("enough")


def test_a_file_that_takes_no_more_is_told() -> None:
    class Full(io.BytesIO):
        def write(self, data: object) -> int:
            raise OutOfRange("full")

    with pytest.raises(OutOfRange, match="full"), Film(cast(io.BytesIO, Full()), 25.0) as film:
        for n in range(50):
            film.add(np.random.default_rng(n).integers(0, 255, (480, 640, 3)).astype(np.uint8), n / 25)


def test_without_an_encoder_it_is_said_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(films, "CODECS", {"none-such": {}})
    with pytest.raises(OutOfRange, match="encoder"):
        codec()
