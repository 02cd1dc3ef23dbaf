"""Settings and store become a running service, and it ends: the one place where all layers meet. Knows no HTTP."""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, TypeVar

from prometheus_client import CollectorRegistry

from service.batching.batcher import Batcher
from service.batching.scheduler import Scheduler
from service.engines.device import Device, check_torch, choose_device
from service.engines.engine import Engine, Framing
from service.engines.framing import FinderFraming, LiftFraming, PoseFraming, PublishedLiftFraming
from service.engines.openvino_engine import openvino_available, openvino_infer
from service.engines.torch_engine import torch_infer
from service.engines.torch_framing import from_pixels
from service.errors import QueueFull, SettingWrong, StoreBroken
from service.metrics import Metrics
from service.networks import create, load_weights
from service.pipelines.clip import ClipPipeline
from service.pipelines.lift import LiftPipeline
from service.pipelines.live import LiveKeypoints, LiveOptions
from service.pipelines.photo import PhotoPipeline
from service.settings import Settings
from service.store.manifest import ROLES, Manifest, Role
from service.store.store import Entry, Store, embedded_store

log = logging.getLogger(__name__)

T = TypeVar("T")
State = Literal["starting", "ready", "draining", "failed"]

# What is warmed, and the most of a batch. A CPU's time grows with every row, so few sizes and no padding; a batch is
# short enough that a live row waits 50 ms for it, or little more. A GPU's hardly grows at first.
CPU_SIZES = {"person": (1,), "pose": (1, 4), "lift": (1, 4, 16)}
CPU_BUDGET = {"person": 1, "pose": 4, "lift": 32}
CUDA_SIZES = {"person": (1, 2, 4, 8), "pose": (1, 2, 4, 8, 16, 32, 64), "lift": (1, 2, 4, 8, 16, 32, 64, 128)}


class Service:
    """Everything that answers: built cheaply, started once, drained, closed.

    state: starting until every model is warm, then ready; draining after a signal; failed with `reason`.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics(CollectorRegistry())
        self.store = Store(settings.store or embedded_store())
        self.state: State = "starting"
        self.reason = "the models are being loaded"
        self.version = importlib.metadata.version("poselift")
        self.entries: dict[str, Entry] = {}
        self.engines: dict[str, Engine] = {}
        self.photo: PhotoPipeline
        self.lift: LiftPipeline
        self.clip: ClipPipeline
        self._scheduler: Scheduler
        self._streams = 0
        self._decoding = ThreadPoolExecutor(settings.decoders, thread_name_prefix="decode")
        self.metrics.ready.set(0)
        self.metrics.live_streams_limit.set(settings.live_streams)

    async def start(self) -> None:
        """Loads and warms every model; then the state is ready.

        Raises:
            SettingWrong, StoreBroken, Unknown: the service cannot be what the settings ask for.
        """
        try:
            device = Device(choose_device(self.settings.device))
            settings = self.settings
            window_s = settings.queue_window_ms / 1000
            self.metrics.device_memory_bytes.set_function(device.memory_bytes)
            scheduler = Scheduler(device, self.metrics, settings.queue_rows, settings.caller_share, window_s)
            self._scheduler = scheduler
            batchers: dict[str, Batcher] = {}
            for role in ROLES:
                entry = self._entry(role)
                engine = await device.run(load_engine, entry.manifest, entry.load, self.settings, device.name)
                self.entries[role], self.engines[role] = entry, engine
                batchers[role] = scheduler.add(engine)
                self._tell_model(entry.manifest, engine, device.name)
        except Exception as error:
            self.state, self.reason = "failed", str(error) or type(error).__name__
            raise
        lifter = self.entries["lift"].manifest
        centre = lifter.input.get("head") == "centre"
        self.lift = LiftPipeline(batchers["lift"], int(lifter.options["frames"]), centre)
        self.photo = PhotoPipeline(batchers["person"], batchers["pose"], self.lift)
        self.clip = ClipPipeline(self.photo, self.lift, self.in_decode_pool)
        scheduler.start()
        if self.state == "starting":  # a signal may have come meanwhile
            self.state, self.reason = "ready", ""
            self.metrics.ready.set(1)

    def _entry(self, role: Role) -> Entry:
        """The model of a role that the settings name, or the store's default."""
        named = getattr(self.settings, role)
        permissive = self.settings.licence_policy == "permissive"
        if named is None:
            return self.store.default(role, permissive=permissive)
        entry = self.store.find(named)
        manifest = entry.manifest
        if manifest.role != role:
            raise SettingWrong(f"`{role}` is {named}, but that model's role is {manifest.role}", field=role)
        if permissive and not manifest.permissive:
            message = f"`{role}` is {named}, whose weights are not permissive ({manifest.weights.licence})"
            raise SettingWrong(message, field=role, limit="permissive")
        return entry

    def _tell_model(self, manifest: Manifest, engine: Engine, device: str) -> None:
        facts = (manifest.role, manifest.name, str(manifest.version), manifest.network)
        self.metrics.model_info.labels(*facts, engine.runtime, device, engine.precision).set(1)
        log.info("%s is warm: %s on %s, %s", engine.label, engine.runtime, device, engine.precision)

    def models(self) -> list[dict[str, Any]]:
        """What /v1/models tells: every entry of the store, and how the loaded ones run."""
        listed = []
        for entry in self.store.entries():
            manifest, role = entry.manifest, entry.manifest.role
            loaded = self.entries.get(role)
            engine = self.engines[role] if loaded is not None and loaded.label == entry.label else None
            running = None
            if engine is not None:
                running = {
                    "runtime": engine.runtime,
                    "device": self._scheduler.device.name,
                    "precision": engine.precision,
                    "sizes": list(engine.sizes),
                }
            listed.append(
                {
                    "name": manifest.name,
                    "version": manifest.version,
                    "role": role,
                    "network": manifest.network,
                    "summary": manifest.summary,
                    "licence": manifest.weights.licence,
                    "permissive": manifest.permissive,
                    "sha256": manifest.weights.sha256,
                    "data": [{"name": d.name, "licence": d.licence, "terms": d.terms} for d in manifest.data],
                    "scores": [{"protocol": s.protocol, "metric": s.metric, "value": s.value} for s in manifest.scores],
                    "running": running,
                }
            )
        return listed

    def engines_in_use(self) -> dict[str, dict[str, str]]:
        """Role to label, runtime, device and precision of what is loaded."""
        return {
            role: {
                "model": engine.label,
                "runtime": engine.runtime,
                "device": self._scheduler.device.name,
                "precision": engine.precision,
            }
            for role, engine in self.engines.items()
        }

    def live(self, options: LiveOptions) -> LiveKeypoints:
        return LiveKeypoints(self.lift, options)

    def open_stream(self) -> None:
        """Takes one of the live streams' places; QueueFull when all are taken."""
        limit = self.settings.live_streams
        if self._streams >= limit:
            raise QueueFull(f"all {limit} live streams are taken", limit=limit, retry_after_s=5.0)
        self._streams += 1
        self.metrics.live_streams.set(self._streams)

    def close_stream(self) -> None:
        self._streams -= 1
        self.metrics.live_streams.set(self._streams)

    async def in_decode_pool(self, call: Callable[..., T], *arguments: Any) -> T:
        """Runs a blocking call (decode, resize, encode, parse) off the loop."""
        return await asyncio.get_running_loop().run_in_executor(self._decoding, call, *arguments)

    async def drain(self, grace_s: float) -> None:
        """Takes no new work and finishes what was taken, for at most `grace_s` seconds."""
        self.state, self.reason = "draining", "the service is stopping"
        self.metrics.ready.set(0)
        if hasattr(self, "_scheduler"):
            await self._scheduler.drain(grace_s)

    async def close(self) -> None:
        """Ends threads and tasks; whoever still waits is refused."""
        if self.state != "failed":
            self.state, self.reason = "draining", "the service has stopped"
        self.metrics.ready.set(0)
        if hasattr(self, "_scheduler"):
            await self._scheduler.close()
        self._decoding.shutdown(wait=False, cancel_futures=True)


def build(settings: Settings) -> Service:
    """A service that has loaded nothing yet."""
    check_torch()
    # The thread pools of libraries that we do not steer ourselves (numpy's, OpenMP's) would take a node's cores.
    os.environ.setdefault("OMP_NUM_THREADS", str(settings.network_threads))
    return Service(settings)


def load_engine(manifest: Manifest, load: Callable[[], dict[str, Any]], settings: Settings, device: str) -> Engine:
    """Builds, fills and warms one network; on the device's thread.

    Raises:
        StoreBroken: names the file and the key that is wrong.
    """
    started = time.perf_counter()
    label = f"{manifest.name}@{manifest.version}"
    try:
        module = create(manifest.network, **manifest.options)
        framing = _framing(manifest, settings)
        if manifest.role != "lift":
            network = from_pixels(module, manifest.input)
    except (KeyError, ValueError) as error:
        raise StoreBroken(f"the manifest of {label}: {error}") from error
    load_weights(module, load(), f"{label}/{manifest.weights.file}")
    if manifest.role != "lift":
        module = network
    role, on_cpu = manifest.role, device == "cpu"
    threads = settings.network_threads
    precision = _precision(settings, role, device)
    sizes = CPU_SIZES[role] if on_cpu else CUDA_SIZES[role]
    if on_cpu and openvino_available():
        runtime, infer = "openvino", openvino_infer(module, framing.example(), sizes, threads, precision)
    else:
        runtime, infer = "torch", torch_infer(module, device, precision, threads)
    budget = CPU_BUDGET[role] if on_cpu else sizes[-1]
    engine = Engine(
        label, role, framing, infer, sizes=sizes, budget=budget, pads=not on_cpu, runtime=runtime, precision=precision
    )
    engine.warm()
    log.info("%s loaded in %.1f s", label, time.perf_counter() - started)
    return engine


def _precision(settings: Settings, role: str, device: str) -> str:
    """32 bits unless asked for less; the lifter, which is small and exact, always."""
    wanted: str = settings.precision
    if role == "lift" or wanted == "auto":
        return "f32"
    return wanted


def _framing(manifest: Manifest, settings: Settings) -> Framing:
    if manifest.role == "person":
        return FinderFraming(manifest.input, settings.person_side)
    if manifest.role == "pose":
        return PoseFraming(manifest.input)
    frames = int(manifest.options["frames"])
    return PublishedLiftFraming(frames) if manifest.input.get("form") == "published" else LiftFraming(frames)
