"""What every engine promises on every device: the embedded models give a row the same answer anywhere, in any batch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from service.engines.framing import CropRow, Found, PictureRow, TensorCropRow, WindowRow
from service.engines.openvino_engine import bf16_native

if TYPE_CHECKING:
    from service.engines.engine import Engine

ROLES = ("person", "pose", "lift", "lift_long")  # of lifters, the one of lone frames and the one of what moves
HAS_CUDA = torch.cuda.is_available()
CUDA = [pytest.mark.cuda, pytest.mark.skipif(not HAS_CUDA, reason="there is no CUDA device")]
DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda:0", marks=CUDA)])
EVERY_ROLE = pytest.mark.parametrize("role", ROLES)


@cache
def engine(role: str, device: str, precision: str = "auto") -> Engine:
    """The store's default on that device."""
    from service.loading import LONG, load_engine
    from service.settings import Settings
    from service.store.store import Store, embedded_store

    store = Store(embedded_store())
    entry = store.long_lifter() if role == LONG else store.default(role)  # type: ignore[arg-type]
    assert entry is not None
    settings = Settings(device=device, precision=precision, threads=1)  # type: ignore[arg-type]
    return load_engine(entry.manifest, entry.load, settings, device)


@cache
def photo() -> NDArray[np.uint8]:
    data = pytest.importorskip("skimage.data")
    return np.asarray(data.astronaut())


def rows(role: str, count: int) -> list[Any]:
    """Different rows: parts of one photo, boxes around one person, windows of one walk."""
    random = np.random.default_rng(count)
    picture = photo()
    if role == "person":
        return [PictureRow(picture[: 512 - 7 * n, : 512 - 5 * n]) for n in range(count)]
    if role == "pose":
        boxes = np.array([60, 0, 330, 512]) + random.uniform(-30, 30, (count, 4))
        return [CropRow(picture, box.astype(np.float32), n % 3 == 1) for n, box in enumerate(boxes)]
    frames = 1 if role == "lift" else 27
    points = random.uniform(100, 400, (count, 1, 17, 3)) + 3 * np.arange(frames)[None, :, None, None]
    points[..., 2] = random.uniform(0.2, 1, (count, frames, 17))
    points[:, :, 3] = np.nan
    return [WindowRow(window.astype(np.float32), (640, 480), False, n % 3 == 1) for n, window in enumerate(points)]


def run(on: Engine, some: Sequence[Any]) -> list[NDArray[np.floating[Any]]]:
    """The answers as arrays; of the finder, whom it is sure of."""
    answers = on.run(on.prepare(some))
    found = [answer.boxes[answer.scores > 0.5] if isinstance(answer, Found) else answer for answer in answers]
    return [np.asarray(answer) for answer in found]


# In pixels for the finder's boxes and the detector's joints, in metres for the lifter's.
TOLERANCE = {"person": 0.5, "pose": 0.5, "lift": 2e-3, "lift_long": 2e-3}


def assert_alike(role: str, given: Sequence[Any], wanted: Sequence[Any], more: float = 1.0) -> None:
    """Alike within the tolerance, which a joint of a low score may break: its peak is one of several."""
    for one, other in zip(given, wanted, strict=True):
        assert one.shape == other.shape
        assert np.isfinite(one).all()
        if role == "pose":
            np.testing.assert_allclose(one[:, 2], other[:, 2], atol=0.02 * more)
            one, other = one[other[:, 2] > 0.5, :2], other[other[:, 2] > 0.5, :2]
            assert len(one) >= 3
        np.testing.assert_allclose(one, other, atol=TOLERANCE[role] * more, rtol=0)


@DEVICES
@EVERY_ROLE
def test_batched_equals_single(role: str, device: str) -> None:
    on = engine(role, device)
    some = rows(role, 5)
    assert_alike(role, run(on, some), [run(on, [row])[0] for row in some])


@DEVICES
@EVERY_ROLE
def test_an_answer_does_not_depend_on_what_ran_before(role: str, device: str) -> None:
    on = engine(role, device)
    some = rows(role, 2)
    first = run(on, some)
    run(on, rows(role, 7))
    assert_alike(role, run(on, some), first, 0.01)


@DEVICES
@EVERY_ROLE
def test_no_rows_are_no_answers(role: str, device: str) -> None:
    on = engine(role, device)
    assert [len(run(on, some)) for some in (rows(role, 3), rows(role, 1))] == [3, 1]


@DEVICES
def test_given_crops_come_back_with_heatmaps_where_they_are_asked_for(device: str) -> None:
    on = engine("pose", device)
    _, height, width, _ = on.framing.example().shape
    crop = np.ascontiguousarray(photo()[:height, 100 : 100 + width])
    some = [TensorCropRow(crop, heatmaps=True), rows("pose", 1)[0], TensorCropRow(crop)]
    asked, _, plain = on.run(on.prepare(some))
    assert asked.heatmaps.shape == (17, height // 4, width // 4)
    np.testing.assert_allclose(asked.points[:, 2], asked.heatmaps.max((1, 2)).clip(0, 1), atol=1e-3)
    np.testing.assert_allclose(asked.points, plain.points, atol=0.05)
    assert plain.heatmaps is None


# ---- Against the CPU


def cuda(test: Any) -> Any:
    for mark in CUDA:
        test = mark(test)
    return test


@cuda
@EVERY_ROLE
def test_cuda_in_32_bits_answers_what_the_cpu_answers(role: str) -> None:
    some = rows(role, 7)  # its convolutions run in TF32, as torch sets it: ten bits of mantissa, as many as f16 has
    assert_alike(role, run(engine(role, "cuda:0", "f32"), some), run(engine(role, "cpu"), some), 3.0)


@cuda
@EVERY_ROLE
def test_cuda_as_it_ships_answers_what_the_cpu_answers(role: str) -> None:
    some = rows(role, 7)
    assert_alike(role, run(engine(role, "cuda:0"), some), run(engine(role, "cpu"), some), 3.0)


@cuda
@EVERY_ROLE
def test_every_warmed_size_is_a_captured_graph(role: str) -> None:
    on = engine(role, "cuda:0")
    assert on.runtime == "cuda-graphs"
    assert on.precision == ("f16" if role == "pose" else "f32")
    before = torch.cuda.memory_allocated()
    for count in (1, *on.sizes[:5], 3):
        assert len(run(on, rows(role, count))) == count
    assert torch.cuda.memory_allocated() <= before + 1024 * 1024  # no run makes anything that stays


@cuda
def test_the_parts_of_photos_lie_in_pinned_memory() -> None:
    parts = engine("pose", "cuda:0").prepare(rows("pose", 3)).inputs
    assert torch.from_numpy(parts.pixels).is_pinned()


def test_a_cpus_lifter_has_its_linear_layers_in_bf16_where_that_is_native() -> None:
    exact, usual, rough = (engine("lift_long", "cpu", precision) for precision in ("f32", "auto", "bf16"))
    assert (exact.precision, rough.precision) == ("f32", "bf16")
    assert usual.precision == ("mixed" if bf16_native() else "f32")
    some = rows("lift_long", 3)
    wanted, near, far = (np.stack(run(each, some)) for each in (exact, usual, rough))
    off, farther = (1000 * np.linalg.norm(answer - wanted, axis=-1).mean() for answer in (near, far))
    assert off < 2  # millimetres
    assert off < farther < 20 if bf16_native() else off == 0


@cuda
def test_the_precision_is_the_one_that_is_asked_for() -> None:
    assert engine("pose", "cuda:0", "f32").precision == "f32"
    assert engine("lift", "cuda:0").precision == "f32"
