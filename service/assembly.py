"""Settings and store become a running service, and it ends: the one place where all layers meet. Knows no HTTP."""

from __future__ import annotations

import asyncio
import gc
import importlib.metadata
import logging
import os
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Literal, TypeVar

import cv2
from prometheus_client import CollectorRegistry

from service import loading
from service.batching.batcher import Batcher
from service.batching.scheduler import Scheduler
from service.engines.device import Device, Lanes, choose_device
from service.engines.engine import Engine
from service.engines.openvino_engine import openvino_available
from service.errors import NotReady, OutOfRange, QueueFull, SettingWrong, StoreBroken, Unreadable
from service.loading import LONG
from service.media.pictures import PictureLimits
from service.metrics import Metrics
from service.pipelines.certainty import Certainty
from service.pipelines.clip import ClipPipeline
from service.pipelines.lift import LiftPipeline
from service.pipelines.live import LiveKeypoints, LiveOptions, Newer
from service.pipelines.live_frames import LiveFrames, LiveFramesOptions
from service.pipelines.photo import PhotoPipeline
from service.pipelines.presence import Presence
from service.settings import Settings
from service.store.manifest import ROLES, Manifest, Role
from service.store.store import Entry, Store, embedded_store
from service.tracing import begin

log = logging.getLogger(__name__)

T = TypeVar("T")
State = Literal["starting", "ready", "draining", "failed"]

MEGABYTE = 1024 * 1024


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
        self.tracing = begin(settings.tracing, self.version)
        self.entries: dict[str, Entry] = {}
        self.engines: dict[str, Engine] = {}
        self.photo: PhotoPipeline
        self.lift: LiftPipeline
        self.clip: ClipPipeline
        self._scheduler: Scheduler
        self._batchers: dict[str, Batcher] = {}
        self._at_start: dict[str, str] = {}  # role to label
        self._changing = asyncio.Lock()
        self.changes: dict[str, str] = {}  # label to `LOADING`, or to why it could not be loaded
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
            settings = self.settings
            name = choose_device(settings.device)
            # torch's own threads are steered for the process alone, and a GPU has one queue.
            side_by_side = name == "cpu" and openvino_available()
            device = Device(name, Lanes(settings.network_lanes if side_by_side else 1))
            window_s = settings.queue_window_ms / 1000
            self.metrics.device_memory_bytes.set_function(device.memory_bytes)
            scheduler = Scheduler(
                device,
                self.metrics,
                settings.queue_rows,
                settings.caller_share,
                window_s,
                self._lose_device,
                self.tracing,
                settings.queue_mb * MEGABYTE,
            )
            self._scheduler = scheduler
            choices = {role: partial(self._entry, role) for role in ROLES} | {LONG: self._long_lifter}
            chosen = {slot: entry for slot, choose in choices.items() if (entry := choose()) is not None}
            # Side by side on a CPU, each in a lane: one network is compiled while the next is converted.
            engines = await all_or_none(
                device.run(loading.load_engine, entry.manifest, entry.load, settings, device.name, device.lanes)
                for entry in chosen.values()
            )
            for (slot, entry), engine in zip(chosen.items(), engines, strict=True):
                self.entries[slot], self.engines[slot] = entry, engine
                self._batchers[slot] = scheduler.add(engine)
                self._tell_model(entry.manifest, engine, device.name)
        except Exception as error:
            self.state, self.reason = "failed", str(error) or type(error).__name__
            raise
        self._at_start = {role: entry.label for role, entry in self.entries.items()}
        self._connect()
        _set_aside()
        scheduler.start()
        if self.state == "starting":  # a signal may have come meanwhile
            self.state, self.reason = "ready", ""
            self.metrics.ready.set(1)

    def _lose_device(self, reason: str) -> None:
        """Only a new process gets a lost device back: the state says so, and the process ends."""
        log.critical(reason)
        self.state, self.reason = "failed", reason
        self.metrics.ready.set(0)

    def _connect(self) -> None:
        """The pipelines over the engines in use. What has begun keeps those that it began with."""
        batchers = self._batchers
        self.lift = self._lifter("lift", self._lifter(LONG) if LONG in batchers else None)
        scores = self._presence(), self._certainty()
        self.photo = PhotoPipeline(batchers["person"], batchers["pose"], self.lift, *scores)
        self.clip = ClipPipeline(self.photo, self.lift.moving, self.in_decode_pool)

    def _lifter(self, slot: str, long: LiftPipeline | None = None) -> LiftPipeline:
        manifest = self.entries[slot].manifest
        centre = manifest.input.get("head") == "centre"
        frames = int(manifest.options["frames"])
        fitted = bool(manifest.options.get("fitted", False))
        return LiftPipeline(self._batchers[slot], frames, centre, self.in_decode_pool, long, fitted)

    def _presence(self) -> Presence | None:
        """What makes a chance of the finder's score, if it was fitted for the detector in use."""
        try:
            return Presence.read(self.entries["person"].manifest.presence, self.entries["pose"].label)
        except ValueError as error:
            raise StoreBroken(f"the manifest of {self.entries['person'].label}: {error}") from error

    def _certainty(self) -> Certainty | None:
        """What makes scores of the detector's peaks, if it was fitted for it."""
        entry = self.entries["pose"]
        try:
            return Certainty.read(entry.manifest.certainty)
        except ValueError as error:
            raise StoreBroken(f"the manifest of {entry.label}: {error}") from error

    async def load_model(self, label: str) -> str:
        """Gives a version of the store the role that its manifest names: `name@version` of what now serves it.

        It is loaded and warmed beside the old one, which serves until then and until those who began with it are done.

        Args:
            label: `name@version`, or `name` for its newest version. The store's folder is read anew.

        Raises:
            Unknown, SettingWrong: not there, or not let in by the licence policy. NotReady: the service is not.
            Unreadable: it cannot be loaded, and why. In each case nothing has changed.
        """
        async with self._changing:
            if self.state != "ready":
                raise NotReady(f"the service is not ready: {self.reason or self.state}", retry_after_s=2.0)
            store = Store(self.store.folder, whole=False)
            entry = await self.in_decode_pool(_find, store, label)
            role: str = entry.manifest.role
            if entry.manifest.long and LONG in self._batchers:
                role = LONG
            old = self._batchers[role]
            self._check_licence(entry, entry.manifest.role)
            if entry.label == self.entries[role].label:
                return entry.label
            self.changes[entry.label] = "LOADING"
            try:
                engine = await self._loaded_aside(entry)
            except Exception as error:
                log.warning("%s could not be loaded", entry.label, exc_info=error)
                reason = str(error).replace(f"{store.folder}{os.sep}", "") or type(error).__name__
                self.changes[entry.label] = reason
                message = f"{entry.label} could not be loaded and {self.entries[role].label} serves on: {reason}"
                raise Unreadable(message, field="model") from error
            del self.changes[entry.label]
            self._tell_model(self.entries[role].manifest, self.engines[role], self._scheduler.device.name, 0)
            self.store, self.entries[role], self.engines[role] = store, entry, engine
            self._batchers[role] = self._scheduler.add(engine)
            self._connect()
            self._scheduler.retire(old)
            _set_aside()
            self._tell_model(entry.manifest, engine, self._scheduler.device.name)
            return entry.label

    async def unload_model(self, name: str) -> None:
        """Gives a role back to the model that had it at the start. A model that serves no role is not loaded anyway.

        Raises:
            Unknown: there is none in the store. OutOfRange: it had the role at the start, and a role is never without.
        """
        role = next((role for role, entry in self.entries.items() if entry.manifest.name == name.split("@")[0]), None)
        if role is None:
            await self.in_decode_pool(Store(self.store.folder, whole=False).find, name)
        elif self.entries[role].label == self._at_start[role]:
            message = f"{self.entries[role].label} serves the role `{role}` from the start: load another in its place"
            raise OutOfRange(message, field="model")
        else:
            await self.load_model(self._at_start[role])

    async def _loaded_aside(self, entry: Entry) -> Engine:
        """An engine built and warmed. A CPU's own thread goes on serving; what touches another device is in its own."""
        device = self._scheduler.device
        arguments = entry.manifest, entry.load, self.settings, device.name, device.lanes
        if device.name == "cpu":
            return await asyncio.to_thread(loading.load_engine, *arguments)
        return await device.run(loading.load_engine, *arguments)

    @property
    def models_leaving(self) -> list[str]:
        """Labels of models that were replaced, and that somebody who began with them still works with."""
        return self._scheduler.retired if hasattr(self, "_scheduler") else []

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
        self._check_licence(entry, role)
        return entry

    def _long_lifter(self) -> Entry | None:
        """None where the settings name a lifter: that one lifts everything."""
        permissive = self.settings.licence_policy == "permissive"
        return self.store.long_lifter(permissive) if self.settings.lift is None else None

    def _check_licence(self, entry: Entry, role: Role) -> None:
        if self.settings.licence_policy == "permissive" and not entry.permissive:
            licence = entry.manifest.weights.licence
            message = f"`{role}` is {entry.label}, whose weights are not permissive ({licence})"
            raise SettingWrong(message, field=role, limit="permissive")

    def _tell_model(self, manifest: Manifest, engine: Engine, device: str, serves: int = 1) -> None:
        facts = (manifest.role, manifest.name, str(manifest.version), manifest.network)
        labels = (*facts, engine.runtime, device, engine.precision)
        if not serves:
            self.metrics.model_info.remove(*labels)
            return
        self.metrics.model_info.labels(*labels).set(1)
        log.info("%s is warm: %s on %s, %s", engine.label, engine.runtime, device, engine.precision)

    def models(self) -> list[dict[str, Any]]:
        """What /v1/models tells: every entry of the store, and how the loaded ones run."""
        listed = []
        for entry in self.store.entries():
            manifest, role = entry.manifest, entry.manifest.role
            engine = next((each for each in self.engines.values() if each.label == entry.label), None)
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

    def live(self, options: LiveOptions, newer: Newer = tuple) -> LiveKeypoints:
        return LiveKeypoints(self.lift.moving, options, newer)

    def live_frames(self, options: LiveFramesOptions, limits: PictureLimits) -> LiveFrames:
        return LiveFrames(self.photo, self.in_decode_pool, limits, options)

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
        if self.state != "failed":
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
        await asyncio.to_thread(self.tracing.close)
        self._decoding.shutdown(wait=False, cancel_futures=True)


def build(settings: Settings) -> Service:
    """A service that has loaded nothing yet."""
    # The thread pools of libraries that we do not steer ourselves (numpy's, OpenMP's) would take a node's cores.
    os.environ.setdefault("OMP_NUM_THREADS", str(settings.network_threads))
    # OpenCV's wait for each other by spinning, which costs more than the half millisecond's work that they share.
    cv2.setNumThreads(1)
    return Service(settings)


def _set_aside() -> None:
    """Keeps what is loaded out of the garbage collector's sight: half a million objects that stay, and through which a
    full collection would go every few hundred requests, with the event loop standing still."""
    gc.unfreeze()  # of models that were replaced, some may be garbage by now
    gc.collect()
    gc.freeze()


def _find(store: Store, label: str) -> Entry:
    """The entry of a label; Unreadable if it is there and broken."""
    broken = {name: reason for name, entry, reason in store.survey() if entry is None}
    if label in broken:
        raise Unreadable(f"{label} cannot be loaded: {broken[label]}", field="model")
    return store.find(label)


async def all_or_none(calls: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """What all of them return, in order; after the first error, what has not begun never does."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
