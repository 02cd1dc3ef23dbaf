"""Live pictures: rectangles that walk, through the real queue and engines that answer by rule."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.errors import EngineFailed, OutOfRange, UnknownKind, Unreadable
from service.geometry.skeletons import SKELETONS, mirror_order
from service.media.pictures import PictureLimits
from service.pipelines.live_frames import LiveFrame, LiveFrames, LiveFramesOptions
from service.pipelines.photo import PhotoPipeline

from .fake import FRAMES, GREEN, RED, Fakes, Pixels, call, draw, street

pytestmark = pytest.mark.anyio
LIMITS = PictureLimits(10**6, 16, 2000)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def jpeg(picture: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=95, subsampling=0)
    return file.getvalue()


async def at_once(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def stream(photo: PhotoPipeline, **options: Any) -> LiveFrames:
    return LiveFrames(photo, at_once, LIMITS, LiveFramesOptions(**options))


def walker(n: int, *, others: bool = False) -> bytes:
    picture = draw(street(), (20 + 2 * n, 60, 40, 120), RED)
    return jpeg(draw(picture, (200, 50, 44, 130), GREEN) if others else picture)


async def told(live: LiveFrames, pictures: list[bytes], fps: float = 30.0) -> list[LiveFrame]:
    answers = []
    for n, picture in enumerate(pictures):
        answers += await live.add(n, n / fps, picture, call())
    return answers + await live.rest(call())


async def test_every_frame_is_answered_with_the_same_people_in_2d_and_3d() -> None:
    fakes = Fakes()
    async with fakes.photo() as photo:
        answers = await told(stream(photo), [walker(n, others=True) for n in range(20)])
    assert [answer.seq for answer in answers] == list(range(20))
    for n, answer in enumerate(answers):
        assert [one.person.id for one in answer.people] == [0, 1]
        someone = answer.people[0].person
        assert someone.box.x == pytest.approx(20 + 2 * n, abs=8)
        assert someone.lifted is not None and np.isfinite(someone.lifted.joints).all()
    assert answers[-1].people[0].track == "confirmed"
    assert len(fakes.person.rows) < 14  # the finder does not look at every frame


async def test_full_latency_answers_every_frame_in_order_half_a_window_later() -> None:
    async with Fakes().photo() as photo:
        live = stream(photo, latency="full")
        first = None
        for n in range(FRAMES):
            if (await live.add(n, n / 30, walker(n, others=5 <= n < 9), call())) and first is None:
                first = n
        rest = await live.rest(call())
    assert first == FRAMES // 2
    assert [answer.seq for answer in rest] == list(range(FRAMES - FRAMES // 2, FRAMES))
    async with Fakes().photo() as photo:
        answers = await told(stream(photo, latency="full"), [walker(n, others=5 <= n < 25) for n in range(40)])
    assert [answer.seq for answer in answers] == list(range(40))
    assert all(one.person.lifted is not None for answer in answers for one in answer.people)


async def test_nobody_gives_empty_answers() -> None:
    async with Fakes().photo() as photo:
        answers = await told(stream(photo, latency="full"), [jpeg(street())] * 5)
    assert [answer.people for answer in answers] == [[]] * 5


async def test_no_3d_and_states_where_it_is_said_so() -> None:
    fakes = Fakes()
    async with fakes.photo() as photo:
        (answer,) = await told(stream(photo, lift=False, states=True), [walker(0)])
    assert answer.people[0].person.lifted is None and fakes.lift.rows == []
    states = answer.people[0].states
    assert states is not None and set(states) == {"seen", "occluded"}


async def test_what_is_no_jpeg_of_the_streams_size_is_refused_and_the_next_is_answered() -> None:
    async with Fakes().photo() as photo:
        live = stream(photo)
        await live.add(0, 0.0, walker(0), call())
        with pytest.raises(OutOfRange, match="320 x 240"):
            await live.add(1, 0.1, jpeg(street(160, 120)), call())
        with pytest.raises(UnknownKind, match=r"begin with .*PNG"):
            await live.add(2, 0.2, b"\x89PNG\r\n\x1a\n", call())
        with pytest.raises(Unreadable):
            await live.add(3, 0.3, walker(0)[:200], call())
        (answer,) = await live.add(4, 0.4, walker(1), call())
        assert [one.person.id for one in answer.people] == [0]
        told_size = stream(photo, image_size=(100, 100))
        with pytest.raises(OutOfRange, match="100 x 100"):
            await told_size.add(0, 0.0, walker(0), call())


@pytest.mark.parametrize("latency", ["low", "full"])
async def test_a_lift_that_fails_stops_no_later_answer(latency: str) -> None:
    fakes = Fakes()
    lifter, answers, lost = fakes.lift.answer, [], set()

    def breaks(row: Any) -> Any:
        raise ValueError("broken")

    async with fakes.photo() as photo:
        live = stream(photo, latency=latency)
        for n in range(3 * FRAMES):
            fakes.lift.answer = breaks if n in (5, FRAMES, FRAMES + 1) else lifter
            before = live.pending | {n}
            try:
                answers += await live.add(n, n / 30, walker(n, others=True), call())
            except EngineFailed:
                lost |= before - live.pending
        answers += await live.rest(call())
    assert lost
    assert not live.pending
    assert [answer.seq for answer in answers] == [n for n in range(3 * FRAMES) if n not in lost]
    assert all(one.person.lifted is not None for answer in answers for one in answer.people)
    assert len(lost) <= 4


async def test_a_mirrored_stream_names_the_true_left_and_shows_the_true_scene() -> None:
    async def shown(mirrored: bool) -> list[LiveFrame]:
        async with Fakes().photo() as photo:
            pictures = [walker(n, others=True) for n in range(12)]
            return await told(stream(photo, mirrored=mirrored, states=True), pictures)

    order = mirror_order(SKELETONS["coco17"])
    for one, other in zip(await shown(True), await shown(False), strict=True):
        assert [each.person.id for each in one.people] == [each.person.id for each in other.people] == [0, 1]
        for here, there in zip(one.people, other.people, strict=True):
            np.testing.assert_array_equal(here.person.keypoints.points, there.person.keypoints.points[order])
            assert here.states is not None and there.states is not None
            assert here.states == [there.states[n] for n in order]
            assert here.person.box == there.person.box
            assert here.person.lifted is not None and there.person.lifted is not None
            assert not np.allclose(here.person.lifted.joints, there.person.lifted.joints)


async def test_after_a_pause_people_have_new_ids() -> None:
    async with Fakes().photo() as photo:
        live = stream(photo)
        await live.add(0, 0.0, walker(0), call())
        live.forget()
        (answer,) = await live.add(1, 60.0, walker(0), call())
    assert [one.person.id for one in answer.people] == [1]


async def test_a_hidden_person_keeps_the_id() -> None:
    async with Fakes().photo() as photo:
        pictures = [walker(n) if not 10 <= n < 16 else jpeg(street()) for n in range(24)]
        answers = await told(stream(photo), pictures)
    assert [one.person.id for one in answers[-1].people] == [0]


async def test_smoothed_keypoints_are_those_that_are_told() -> None:
    async with Fakes().photo() as photo:
        plain = await told(stream(photo), [walker(3 * (n % 2)) for n in range(12)])
        smooth = await told(stream(photo, smooth=True), [walker(3 * (n % 2)) for n in range(12)])

    def shake(answers: list[LiveFrame]) -> float:
        x = [answer.people[0].person.keypoints.points[5, 0] for answer in answers]
        return float(np.abs(np.diff(x)).mean())

    assert shake(smooth) < 0.8 * shake(plain)
