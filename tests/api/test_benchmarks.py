"""The benchmarks' own tools, against the served fake: what they send is accepted, what they tell adds up."""

from __future__ import annotations

import asyncio
import io
import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import av
import cv2
import numpy as np
import orjson
import pytest

from benchmarks import bodies, report, soak
from benchmarks import served as started
from benchmarks.poisson import LEFT, open_loop
from benchmarks.served import since, under
from service.errors import EngineFailed

from .conftest import Served
from .fake import FakeService

Serve = Callable[[FakeService], AbstractContextManager[Served]]
WINDOW = bodies.windows(1)


def test_an_open_loop_asks_at_its_rate_and_hears_every_answer(served: Serve) -> None:
    with served(FakeService()) as here:
        heard = open_loop(here.port, "/v1/lift", WINDOW, bodies.JSON, 100.0, 1.0)
    assert 60 < len(heard.status) < 140  # five standard deviations
    assert heard.count(200) == len(heard.status) and heard.failed == 0
    assert (heard.took >= heard.late).all() and (heard.late > -0.002).all()  # timers are rounded to a millisecond
    assert (np.diff(np.sort(heard.due)) > 0).all() and heard.due.max() < 1.0


def test_callers_who_vanish_are_told_from_answers_and_from_failures(served: Serve) -> None:
    service = FakeService()
    service.work.gate = threading.Event()  # nobody is answered before the gate opens
    opening = threading.Timer(2.0, service.work.gate.set)
    opening.start()
    with served(service) as here:
        heard = open_loop(here.port, "/v1/lift", WINDOW, bodies.JSON, 60.0, 1.0, vanish=0.5)
        opening.join()
    assert 0 < service.work.cancelled <= heard.count(LEFT)  # some are gone before their work begins
    assert heard.count(200) == len(heard.status) - heard.count(LEFT) > 5
    assert heard.failed == 0


def test_a_clips_lines_are_heard_to_their_end_and_one_that_breaks_off_has_failed(served: Serve) -> None:
    service, clip = FakeService(), bodies.rendered_clip()
    with served(service) as here:
        whole = open_loop(here.port, "/v1/clips", clip, bodies.MP4, 20.0, 1.0)
        service.work.error = EngineFailed("broken")  # after the first frame
        broken = open_loop(here.port, "/v1/clips", clip, bodies.MP4, 20.0, 1.0)
    assert whole.count(200) == len(whole.status) > 5
    assert broken.failed == len(broken.status) > 5


def test_several_bodies_are_all_sent(served: Serve) -> None:
    with served(FakeService()) as here:
        heard = open_loop(here.port, "/v1/lift", [WINDOW, b"{}"], bodies.JSON, 100.0, 1.0)
    assert heard.count(200) > 5 and heard.count(422) > 5


def test_refusals_are_counted_apart(served: Serve) -> None:
    with served(FakeService("starting")) as here:
        here.server._service.state = "draining"
        here.server._doors.closing.set()
        heard = open_loop(here.port, "/v1/lift", WINDOW, bodies.JSON, 50.0, 0.5)
    assert heard.count(503) == len(heard.status) > 5
    assert heard.latency_ms(200, 0.5) is None
    assert (heard.latency_ms(503, 0.5) or 0) > 0


def test_a_body_of_many_windows_is_one_person_each() -> None:
    assert len(orjson.loads(bodies.windows(1))["keypoints"]) == bodies.WINDOW_FRAMES
    people = orjson.loads(bodies.windows(16))["people"]
    assert [len(person) for person in people] == [bodies.WINDOW_FRAMES] * 16


def test_what_came_between_two_scrapes_has_its_quantile() -> None:
    before = {f'lag_bucket{{le="{bound}"}}': 100.0 for bound in ("0.1", "1.0", "+Inf")} | {"lag_count": 100.0}
    after = {'lag_bucket{le="0.1"}': 190.0, 'lag_bucket{le="1.0"}': 199.0, 'lag_bucket{le="+Inf"}': 200.0}
    after["lag_count"] = 200.0
    assert since(before, after, "lag_count") == 100
    assert under(before, after, "lag", 0.9) == 0.1
    assert under(before, after, "lag", 0.99) == 1.0
    assert under(before, after, "lag", 0.999) == float("inf")


@pytest.mark.parametrize(
    ("lines", "wanted"),
    [
        ([{"a": 1, "b": 2.50}, {"a": 3, "b": None}], "| a | b |\n| --- | --- |\n| 1 | 2.5 |\n| 3 |  |"),
        ([{"a": [0.5, 1.25]}], "|  |  |\n| --- | --- |\n| a | 0.5, 1.25 |"),
    ],
)
def test_a_table_has_a_row_a_line_and_of_one_line_a_row_a_field(lines: report.Lines, wanted: str) -> None:
    assert report.table(lines) == wanted


def test_the_rendered_pictures_have_their_sizes_and_the_clip_its_frames() -> None:
    with av.open(io.BytesIO(bodies.rendered_clip()), "r") as clip:
        frames = [frame.to_ndarray(format="rgb24") for frame in clip.decode(video=0)]
    assert [frame.shape for frame in frames] == [(284, bodies.CLIP_WIDTH, 3)] * bodies.CLIP_FRAMES
    assert np.abs(frames[0].astype(int) - frames[-1]).mean() > 5  # it turns
    photos = [cv2.imdecode(np.frombuffer(photo, np.uint8), cv2.IMREAD_COLOR) for photo in bodies.rendered_photos()]
    assert [photo.shape[1] for photo in photos if photo is not None] == list(bodies.PHOTO_WIDTHS)


# ---- The soak


FULL = {"lift": 200.0, "photo": 40.0, "clip": 40.0, "live": 200.0}


def test_a_soak_tells_of_every_kind_what_became_of_its_requests(served: Serve, tmp_path: Path) -> None:
    service = FakeService()
    with served(service) as here:
        seen = started.Served(here.url, os.getpid(), tmp_path)
        line = soak.mixed(seen, soak.kinds(), FULL, 4.0, live_s=1.0)
    for kind in soak.SHARES:
        asked = line[f"{kind}_asked"]
        assert asked >= 10 and line[f"{kind}_answered"] > 0, kind
        assert asked == sum(line[f"{kind}_{what}"] for what in ("answered", "vanished", "shed", "failed")), kind
        assert (line[f"{kind}_shed"], line[f"{kind}_failed"]) == (0, 0), kind
    assert line["live_vanished"] > 0 and line["live_frames_answered"] > 0
    assert line["live_streams_after"] == service.streams == 0
    assert not any(value for name, value in line.items() if name.startswith("queue_rows_after_"))
    assert len(line["memory_mb_by_tenths"]) == 11 and line["memory_mb_first"] > 50


def test_streams_that_find_no_room_are_shed_and_those_that_break_failed(served: Serve) -> None:
    with served(FakeService(live_streams=2)) as here:
        full = asyncio.run(soak.hold_streams(here.url.replace("http", "ws", 1), 30.0, 1.0, 1.0))
    gone = asyncio.run(soak.hold_streams(here.url.replace("http", "ws", 1), 30.0, 0.2, 0.1))
    assert full["shed"] >= soak.LIVE_STREAMS - 2 and full["answered"] > 0 and full["failed"] == 0
    assert full["asked"] == full["answered"] + full["vanished"] + full["shed"]
    assert gone["failed"] == gone["asked"] >= soak.LIVE_STREAMS


@pytest.mark.parametrize(("a_minute", "late"), [(0.0, 0.0), (6.0, 0.0), (6.0, 6.0)])
def test_memorys_slope_is_told_after_the_first_part_and_in_the_second_half(a_minute: float, late: float) -> None:
    minutes = np.arange(600) / 60
    memory = 1000 + a_minute * np.minimum(minutes, 5) + late * np.maximum(minutes - 5, 0)
    memory[:60] = 0  # a start that nobody counts
    told = soak.slopes(memory.tolist(), 600.0)
    assert told["memory_mb_a_minute_in_the_second_half"] == pytest.approx(late, abs=1e-3)
    assert told["memory_mb_a_minute"] == pytest.approx(a_minute, abs=1e-3 if a_minute == late else a_minute)
    assert told["memory_mb_first"] == pytest.approx(1000 + 2 * a_minute, abs=0.1)


def test_files_without_a_name_count_while_they_are_held(tmp_path: Path) -> None:
    seen = started.Served("http://127.0.0.1:1", os.getpid(), tmp_path)
    assert seen.temporary_files() == 0
    (tmp_path / "named").write_bytes(b"1")
    with (tmp_path / "unnamed").open("wb"):
        (tmp_path / "unnamed").unlink()
        assert seen.temporary_files() == 2
    assert seen.temporary_files() == 1
