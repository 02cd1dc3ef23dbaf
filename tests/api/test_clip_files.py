"""POST /v1/clips?format=: one file of a whole clip, from a bounded spool, and nothing left behind."""

from __future__ import annotations

import csv
import io
import tempfile
import threading
import zipfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from service import errors
from service.api import clip_files
from service.api.clip_files import Bounded, ClipSpool
from service.geometry.cameras import assumed_camera
from service.media.videos import Clip, ClipLimits, open_clip
from service.people import Box, Joints3D, Keypoints, Person, Scale, Track, World
from service.pipelines.call import Call
from service.pipelines.clip import ClipEnd, ClipFrame, ClipOptions, ClipPerson, ClipStart

from .conftest import Served, client_of, wait_until
from .fake import MODELS, FakeService

pytestmark = pytest.mark.anyio

SUFFIXES = {"csv": ".csv", "npz": ".npz", "coco": ".json", "alphapose": ".json", "mp4": ".mp4"}


@pytest.fixture(autouse=True)
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def standing(person: int, x: float) -> Person:
    joints = np.zeros((17, 3), np.float32)
    joints[[10, 8, 7, 9], 1] = -0.7, -0.5, -0.25, -0.6
    joints[[2, 5], 1], joints[[3, 6], 1] = 0.4, 0.8
    joints[[1, 2, 3, 14, 15, 16], 0], joints[[4, 5, 6, 11, 12, 13], 0] = -0.15, 0.15
    joints[[14, 15, 16, 11, 12, 13], 1] = -0.45, -0.2, 0.05, -0.45, -0.2, 0.05
    points = np.full((17, 3), (x, 20, 0.9), np.float32)
    return Person(
        person, Box(x, 4, 10, 40, 0.9), Keypoints(points), Joints3D(joints, np.array([x / 40, 0.1, 4], np.float32))
    )


class TwoPeople:
    """A clip's pipeline: person 0 all the time, person 1 in the first third and, as person 2, in the last."""

    feet: tuple[str | None, str | None] | None = None

    def __init__(self, service: FakeService, merged: dict[int, int], factor: float = 1.0, world: Any = None) -> None:
        self._pool, self.merged, self.factor, self.world = service.in_decode_pool, merged, factor, world

    async def run(self, clip: Clip, options: ClipOptions, call: Call) -> AsyncIterator[Any]:
        camera = assumed_camera(clip.width, clip.height)
        yield ClipStart(clip.width, clip.height, clip.rate, clip.frames, clip.duration, camera, MODELS)
        frames = iter(clip)
        while (frame := await self._pool(next, frames, None)) is not None:
            if frame.index % options.every:
                continue
            people = [standing(0, 10)]
            if not 4 <= frame.index < 8:
                people.append(standing(1 if frame.index < 4 else 2, 40))
            told = tuple(ClipPerson(each, "confirmed", None, False, False, None) for each in people)
            yield ClipFrame(frame.index, frame.time_s, told)
        tracks = tuple(Track(n, 0, 11, 12, Scale(), self.factor) for n in range(3))
        yield ClipEnd(12, 1.1, tracks, self.merged, self.world, "no floor")


def two_people(**more: Any) -> FakeService:
    service = FakeService()
    service.clip = TwoPeople(service, **({"merged": {}} | more))  # type: ignore[assignment]
    return service


@pytest.mark.parametrize("name", ["csv", "npz", "coco", "alphapose", "openpose", "trc", "c3d", "bvh", "mp4"])
async def test_each_format_is_a_named_file_of_its_kind(name: str, clip: bytes, spool: Path) -> None:
    async with client_of(two_people()) as client:
        answer = await client.post(f"/v1/clips?format={name}", content=clip)
    assert answer.status_code == 200, answer.text
    suffix = SUFFIXES.get(name, ".zip")
    stem = f"clip_{name}" if suffix == ".zip" else "clip"
    assert answer.headers["content-disposition"] == f'attachment; filename="{stem}{suffix}"'
    assert int(answer.headers["content-length"]) == len(answer.content)
    if suffix == ".zip":
        assert answer.headers["content-type"] == "application/zip"
        files = zipfile.ZipFile(io.BytesIO(answer.content)).namelist()
        assert len(files) == {"openpose": 12}.get(name, 3)
    assert list(spool.iterdir()) == []


@pytest.mark.parametrize("name", ["trc", "c3d", "bvh"])
async def test_one_person_is_one_file_and_an_unknown_one_is_refused(name: str, clip: bytes, spool: Path) -> None:
    async with client_of(two_people()) as client:
        answer = await client.post(f"/v1/clips?format={name}&person=1", content=clip)
        refused = await client.post(f"/v1/clips?format={name}&person=7", content=clip)
    assert answer.headers["content-disposition"].endswith(f'person1.{name}"')
    assert (refused.status_code, refused.json()["field"]) == (422, "person")
    assert refused.json()["limit"] == [0, 1, 2]
    assert list(spool.iterdir()) == []


async def rows_of(service: FakeService, clip: bytes, query: str = "") -> list[dict[str, str]]:
    async with client_of(service) as client:
        answer = await client.post(f"/v1/clips?format=csv{query}", content=clip)
    assert answer.status_code == 200, answer.text
    return list(csv.DictReader(io.StringIO(answer.text)))


async def test_what_only_the_end_tells_is_applied(clip: bytes) -> None:
    plain = await rows_of(two_people(), clip)
    assert {row["person"] for row in plain} == {"0", "1", "2"} and len(plain) == 12 + 8
    turned = World(np.diag([1.0, -1, -1]), np.array([0, 1.5, 0]))
    whole = await rows_of(two_people(merged={2: 1}, factor=1.1, world=turned), clip)
    assert {row["person"] for row in whole} == {"0", "1"} and len(whole) == len(plain)
    assert [row["frame"] for row in whole if row["person"] == "1"] == [str(n) for n in (0, 1, 2, 3, 8, 9, 10, 11)]
    for before, after in zip(plain, whole, strict=True):
        for axis, moved in (("x", 0.0), ("y", 1.5), ("z", 0.0)):
            name = f"position_{axis}_m"
            assert float(after[name]) == pytest.approx(1.1 * float(before[name]) + moved, abs=2e-4)
        assert float(after["left_ankle_y_m"]) == pytest.approx(1.1 * float(before["left_ankle_y_m"]), abs=2e-4)
        assert after["left_ankle_x_px"] == before["left_ankle_x_px"]


async def test_a_foot_that_stands_does_not_slide_in_the_file(clip: bytes) -> None:
    class Slides(TwoPeople):
        """One person whose place trembles by a decimetre while both feet are down."""

        async def run(self, clip: Clip, options: ClipOptions, call: Call) -> AsyncIterator[Any]:
            async for item in super().run(clip, options, call):
                if isinstance(item, ClipFrame):
                    someone = standing(0, 10 + 4 * (item.index % 2))
                    told = ClipPerson(someone, "confirmed", None, False, False, None, feet=self.feet)
                    yield ClipFrame(item.index, item.time, (told,))
                else:
                    yield item

    spread = []
    for feet in (None, ("down", "down")):
        service = FakeService()
        slides = Slides(service, {})
        slides.feet = feet
        service.clip = slides  # type: ignore[assignment]
        spread.append(np.ptp([float(row["position_x_m"]) for row in await rows_of(service, clip)]))
    assert spread[0] == pytest.approx(0.1, abs=1e-3) and spread[1] < 0.01


async def test_every_second_frame_is_half_the_rate(clip: bytes) -> None:
    rows = await rows_of(two_people(), clip, "&every=2")
    assert [row["frame"] for row in rows if row["person"] == "0"] == ["0", "2", "4", "6", "8", "10"]
    async with client_of(two_people()) as client:
        answer = await client.post("/v1/clips?format=trc&every=2&person=0", content=clip)
    assert answer.text.splitlines()[2].split("\t")[:3] == ["5", "5", "6"]


async def test_a_film_has_the_clips_frames_at_their_times(clip: bytes, tmp_path: Path) -> None:
    async with client_of(two_people()) as client:
        answer = await client.post("/v1/clips?format=mp4", content=clip)
    made = tmp_path / "film.mp4"
    made.write_bytes(answer.content)
    with open_clip(made, ClipLimits(10**7, 100, 100)) as film:
        frames = list(film)
        assert film.width % 2 == 0 and film.height % 2 == 0
    assert [frame.time_s for frame in frames] == pytest.approx([n / 10 for n in range(12)], abs=1e-3)
    made.unlink()


@pytest.mark.parametrize(
    "query, field",
    [("format=docx", "format"), ("person=1", "person"), ("format=3", "format")]
    + [(f"format={name}&lift=false", "lift") for name in ("bvh", "trc", "c3d")],
)
async def test_what_cannot_be_is_refused_before_the_clip_is_read(query: str, field: str) -> None:
    async with client_of(two_people()) as client:
        answer = await client.post(f"/v1/clips?{query}", content=b"x", headers={"Content-Type": "video/mp4"})
    assert (answer.status_code, answer.json()["field"]) == (422, field), answer.text


async def test_a_clip_of_too_many_people_for_the_disk_is_told_with_the_limit(
    clip: bytes, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clip_files, "MEGABYTE", 1024)
    service = two_people()
    service.settings = service.settings.model_copy(update={"max_spool_mb": 2})
    async with client_of(service) as client:
        answer = await client.post("/v1/clips?format=csv", content=clip)
    assert (answer.status_code, answer.json()["field"]) == (413, "format")
    assert "2 MB" in answer.json()["detail"]
    assert list(spool.iterdir()) == []


@pytest.mark.parametrize("name", ["csv", "openpose", "mp4"])
async def test_a_file_over_the_limit_is_told_with_the_limit(
    name: str, clip: bytes, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = clip_files.Bounded.__init__

    def small(self: Bounded, limit_bytes: int, what: str) -> None:
        real(self, 700 if what == "the file" else limit_bytes, what)

    monkeypatch.setattr(clip_files.Bounded, "__init__", small)
    async with client_of(two_people()) as client:
        answer = await client.post(f"/v1/clips?format={name}", content=clip)
    assert (answer.status_code, answer.json()["field"]) == (413, "format"), answer.text
    assert list(spool.iterdir()) == []


async def test_a_clip_that_breaks_is_a_problem_and_no_file(clip: bytes, spool: Path) -> None:
    async with client_of(FakeService()) as client:
        answer = await client.post("/v1/clips?format=csv", content=clip[: len(clip) * 3 // 4])
    assert (answer.status_code, answer.json()["field"]) == (400, "clip")
    service = FakeService()
    service.work.error = errors.EngineFailed("secret")
    async with client_of(service) as client:
        answer = await client.post("/v1/clips?format=csv", content=clip)
    assert answer.status_code == 500 and "secret" not in answer.text
    assert list(spool.iterdir()) == []


def test_the_drain_gives_up_a_file_with_a_problem(
    served: Callable[[FakeService], AbstractContextManager[Served]], clip: bytes, spool: Path
) -> None:
    service = FakeService(drain_grace_s=0.3)
    service.work.gate = threading.Event()
    with served(service) as here:
        threading.Timer(0.2, here.stop).start()
        answer = httpx.post(f"{here.url}/v1/clips?format=csv", content=clip)
    assert answer.status_code == 503 and "stopped" in answer.json()["detail"]
    assert list(spool.iterdir()) == []


@pytest.mark.parametrize("name", ["csv", "mp4"])
def test_a_caller_who_leaves_while_the_file_is_made_stops_it(
    served: Callable[[FakeService], AbstractContextManager[Served]],
    clip: bytes,
    spool: Path,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    going, ended = threading.Event(), threading.Event()
    real = clip_files.ClipSpool.recording

    def slow(self: ClipSpool, every: int = 1) -> Any:
        going.set()
        ended.wait(5)
        return real(self, every)

    monkeypatch.setattr(clip_files.ClipSpool, "recording", slow)
    with served(two_people()) as here:
        with httpx.Client() as client, pytest.raises(httpx.ReadTimeout):
            client.post(f"{here.url}/v1/clips?format={name}", content=clip, timeout=0.5)
        assert going.is_set()
        ended.set()
        wait_until(lambda: 'route="/v1/clips",status="499"' in httpx.get(f"{here.url}/metrics").text)
        wait_until(lambda: list(spool.iterdir()) == [])
