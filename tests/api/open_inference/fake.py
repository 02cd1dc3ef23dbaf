"""A service whose queues and framing are real and whose networks are rules: a joint is where a crop is brightest."""

from __future__ import annotations

import threading
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from service.batching.scheduler import Scheduler
from service.engines.device import Device
from service.engines.engine import Engine
from service.engines.framing import PoseFraming
from service.errors import Unknown, Unreadable
from service.pipelines.lift import LiftPipeline
from service.pipelines.photo import PhotoPipeline
from tests.api.fake import FakeService
from tests.pipelines.fake import FRAMES, FakeEngine, finder, lifter

HEIGHT, WIDTH, STRIDE = 16, 12, 4
PRESET = {
    "width": WIDTH,
    "height": HEIGHT,
    "padding": 1.25,
    "stride": STRIDE,
    "shift": [-1.5, -1.5],  # this network answers with the middle of its cells
    "flip_shift": 0,
    "decode": "argmax",
}
PATIENCE_S = 120.0  # of a gate that a whole module of tests keeps shut


class Brightness:
    """Heatmaps are the brightness of each cell, the same for all joints; answers while `gate` is open."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.begun = 0

    def __call__(self, inputs: NDArray[Any]) -> list[NDArray[Any]]:
        self.begun += 1
        assert self.gate.wait(PATIENCE_S)
        cells = inputs.reshape(len(inputs), HEIGHT // STRIDE, STRIDE, WIDTH // STRIDE, STRIDE, 3)
        bright = cells.mean(axis=(2, 4, 5), dtype=np.float32) / 255
        return [np.repeat(bright[:, None], 17, axis=1)]


def pose_engine(network: Brightness, label: str = "bright@3") -> Engine:
    return Engine(
        label,
        "pose",
        PoseFraming(PRESET),
        network,
        sizes=(1, 2, 4, 8, 16),
        budget=16,
        pads=False,
        runtime="fake",
        precision="f32",
    )


class TinyStore:
    """`bright` has a fourth version that can be loaded, a fifth that breaks meanwhile, and a sixth without manifest."""

    labels = ("bright@2", "bright@3", "bright@4", "bright@5", "spare@1")
    broken: ClassVar = {"bright@6": "bright/6/manifest.toml: no such file"}

    def survey(self) -> list[tuple[str, None, str]]:
        return [(label, None, "") for label in self.labels] + [(n, None, why) for n, why in self.broken.items()]


class TinyService(FakeService):
    """Starts like the real one, and replaces its detector as that does; of the store, `spare` is not in use.

    moving: label of a second lifter, for sequences of more than one frame.
    """

    photo: PhotoPipeline  # type: ignore[assignment]
    lift: LiftPipeline  # type: ignore[assignment]

    def __init__(self, moving: str = "", **settings: Any) -> None:
        super().__init__("starting", **settings)
        self.lifters = {"lift": FakeEngine("lift", lifter)}
        if moving:
            self.lifters["lift_long"] = second = FakeEngine("lift", lifter)
            second.label, second.network = moving, "lift_long"
        self.network = Brightness()
        self.labels: dict[str, str] = {}
        self.store = TinyStore()
        self.changes: dict[str, str] = {}
        self.asked_for: list[str] = []  # what was to be loaded

    async def start(self) -> None:
        rows = self.settings.queue_rows
        self._scheduler = Scheduler(Device("cpu"), self.metrics, rows, 1.0, tracing=self.tracing)
        engines = FakeEngine("person", finder), pose_engine(self.network), *self.lifters.values()
        self.person, self.pose, lift, *moving = (self._scheduler.add(engine) for engine in engines)
        self.lift = LiftPipeline(lift, FRAMES, long=LiftPipeline(moving[0], FRAMES) if moving else None)
        self.photo = PhotoPipeline(self.person, self.pose, self.lift)
        self.labels = {engine.network: engine.label for engine in engines}
        self._scheduler.start()
        self.state, self.reason = "ready", ""

    async def load_model(self, label: str) -> str:
        """The detector's next version, as `assembly.Service.load_model` does it."""
        self.asked_for.append(label)
        if label.startswith("nobody"):
            raise Unknown(f"no model {label!r}", field="models")
        label = "bright@4" if label == "bright" else label
        if label == "bright@5":
            self.changes[label] = "a weight is not finite"
            raise Unreadable(f"{label} could not be loaded and bright@3 serves on", field="model")
        old, self.labels["pose"] = self.pose, label
        self.pose = self._scheduler.add(pose_engine(Brightness(), label))
        self.photo = PhotoPipeline(self.person, self.pose, self.lift)
        self._scheduler.retire(old)
        return label

    async def unload_model(self, name: str) -> None:
        await self.load_model("bright@3")

    @property
    def models_leaving(self) -> list[str]:
        return self._scheduler.retired

    def engines_in_use(self) -> dict[str, dict[str, str]]:
        facts = {"runtime": "fake", "device": "cpu", "precision": "f32"}
        return {role: {"model": label, **facts} for role, label in self.labels.items()}

    def models(self) -> list[dict[str, Any]]:
        return [{"name": label.split("@")[0], "version": int(label.split("@")[1])} for label in self.labels.values()]

    async def close(self) -> None:
        self.network.gate.set()
        await self._scheduler.close()
        await super().close()


def crops(count: int) -> NDArray[np.uint8]:
    """(count, HEIGHT, WIDTH, 3), dark but for one cell each."""
    made = np.full((count, HEIGHT, WIDTH, 3), 20, np.uint8)
    for n, (row, column) in enumerate(_cells(count)):
        made[n, row * STRIDE : (row + 1) * STRIDE, column * STRIDE : (column + 1) * STRIDE] = 200 + n
    return made


def bright_places(count: int) -> NDArray[np.float32]:
    """(count, 17, 3): the middles of the bright cells, which is what the keypoints of `crops` are."""
    places = [
        ((column + 0.5) * STRIDE, (row + 0.5) * STRIDE, (200 + n) / 255)
        for n, (row, column) in enumerate(_cells(count))
    ]
    return np.repeat(np.array(places, np.float32).reshape(count, 1, 3), 17, axis=1)


def _cells(count: int) -> list[tuple[int, int]]:
    columns = WIDTH // STRIDE
    return [(n // columns % (HEIGHT // STRIDE), n % columns) for n in range(count)]
