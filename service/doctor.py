"""What on this machine makes the service slow, degraded or unable to start, and how to mend it. Opens no port, loads
no network.

Each finding is `ok`, `slow`, `degraded` or `broken`; only the last stops a start. Sizes are MB (2^20 bytes).
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import resource
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from service.engines.device import check_torch, choose_device
from service.engines.openvino_engine import openvino_available
from service.errors import ServiceError, SettingWrong
from service.settings import Settings, cpu_limit
from service.store.manifest import ROLES
from service.store.store import Store, embedded_store
from service.tracing import EXTRA, installed

Grade = Literal["ok", "slow", "degraded", "broken"]

CPU_FLAGS = Path("/proc/cpuinfo")
MEMORY_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
THROTTLING = Path("/sys/fs/cgroup/cpu.stat")
# The embedded models, the libraries and some pictures in work; measured with the defaults on a CPU.
LEAST_MEMORY_MB = 1536
SPARE_FILES = 64  # beside the sockets: the store, logs, libraries, spooled clips
OPENVINO_WANTED = (2025, 0)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. mend: what to do; empty where nothing is to be done."""

    name: str
    grade: Grade
    told: str
    mend: str = ""


def examine(settings: Settings) -> list[Finding]:
    """Everything, in the order in which a start would meet it. A look that breaks is a finding itself."""
    found: list[Finding] = []
    for look in LOOKS:
        try:
            found += look(settings)
        except Exception as error:  # one that nobody foresaw must not hide the others
            found.append(Finding(look.__name__.strip("_"), "degraded", f"could not be looked at: {error!r}"))
    return found


def _libraries(settings: Settings) -> Iterator[Finding]:
    try:
        check_torch()
    except SettingWrong as error:
        # Of what is served, torchvision's own finders alone need it.
        yield Finding("torch", "degraded", str(error), "install torch and torchvision from one index")
    else:
        yield Finding("torch", "ok", importlib.metadata.version("torch"))
    if settings.device == "cpu" or _device(settings) == "cpu":
        if not openvino_available():
            mend = "pip install 'poselift[cpu]'"
            yield Finding("openvino", "slow", "not installed: torch runs the networks, about three times slower", mend)
            return
        version = importlib.metadata.version("openvino")
        numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
        if numbers < OPENVINO_WANTED:
            yield Finding("openvino", "degraded", version, f"{'.'.join(map(str, OPENVINO_WANTED))} or later")
        else:
            yield Finding("openvino", "ok", version)


def _device(settings: Settings) -> str:
    try:
        return choose_device(settings.device)
    except SettingWrong:
        return "none"


def _chosen_device(settings: Settings) -> Iterator[Finding]:
    try:
        name = choose_device(settings.device)
    except SettingWrong as error:
        mend = "look at `nvidia-smi`, the container's GPU option and torch's CUDA build, or set `device` to cpu"
        yield Finding("device", "broken", str(error), mend)
        return
    if name == "cpu" and settings.device == "auto":
        yield Finding("device", "ok", "cpu: torch sees no CUDA device here")
    else:
        yield Finding("device", "ok", name)


def _processor(settings: Settings) -> Iterator[Finding]:
    if _device(settings) != "cpu" or not CPU_FLAGS.exists():
        return
    text = CPU_FLAGS.read_text()
    flags = set((re.search(r"^flags\s*: (.*)$", text, re.MULTILINE) or ["", ""])[1].split())
    model = (re.search(r"^model name\s*: (.*)$", text, re.MULTILINE) or ["", "of no name"])[1]
    if flags and "avx2" not in flags:
        yield Finding("processor", "slow", f"{model}, without AVX2", "another machine, or a VM that shows it")
    elif flags and "avx512f" not in flags:
        yield Finding("processor", "slow", f"{model}, AVX2 without AVX-512", "with AVX-512 about twice as fast")
    else:
        wide = [name for name in ("avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8") if name in flags]
        yield Finding("processor", "ok", f"{model}; {', '.join(wide) or 'instruction sets unknown'}")


def _threads(settings: Settings) -> Iterator[Finding]:
    cpus = cpu_limit()
    on_cpu = _device(settings) == "cpu"
    if on_cpu and settings.network_threads > cpus:
        told = f"`threads` is {settings.threads}, and this process may use {cpus} CPUs: threads stop each other"
        yield Finding("threads", "slow", told, f"set `threads` to {cpus} or 0")
    elif cpus == 1:
        yield Finding("threads", "slow", "1 CPU for networks, decoding and the event loop", "2 CPUs or more")
    else:
        yield Finding("threads", "ok", f"{settings.network_threads} for networks, {settings.decoders} for decoding")
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        value = os.environ.get(variable, "")
        if value.isdigit() and int(value) > cpus:
            yield Finding(variable, "slow", f"{value}, over the {cpus} CPUs of this process", f"unset {variable}")


def _throttling(settings: Settings) -> Iterator[Finding]:
    if THROTTLING.exists():
        numbers = dict(line.split() for line in THROTTLING.read_text().splitlines() if len(line.split()) == 2)
        periods, throttled = int(numbers.get("nr_periods", 0)), int(numbers.get("nr_throttled", 0))
        if periods > 100 and throttled > periods / 20:
            told = f"this container was stopped in {throttled} of {periods} scheduler periods"
            yield Finding("cpu limit", "slow", told, "take the CPU limit away, or set `threads` below it")


def _memory(settings: Settings) -> Iterator[Finding]:
    limits = [int(text) for path in MEMORY_LIMITS if path.exists() and (text := path.read_text().strip()).isdigit()]
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    most = min([physical, *limits]) // 2**20
    pictures = 2 * settings.queue_mb + settings.decoders * 3 * settings.max_image_mpx  # two networks queue them
    wanted = LEAST_MEMORY_MB + settings.max_uploads_mb + pictures
    if most < LEAST_MEMORY_MB:
        yield Finding("memory", "broken", f"{most} MB", f"{LEAST_MEMORY_MB} MB at least, with small pictures")
    elif most < wanted:
        told = f"{most} MB; with every limit used up it takes {wanted}"
        mend = "more memory, or lower `max_uploads_mb`, `queue_mb` or `max_image_mpx`"
        yield Finding("memory", "degraded", told, mend)
    else:
        yield Finding("memory", "ok", f"{most} MB")


def _store(settings: Settings) -> Iterator[Finding]:
    store = Store(settings.store or embedded_store())
    problems = store.check()
    for problem in problems:
        mend = "restore the file, or import or fetch the model again; `poselift models check` tells when it is whole"
        yield Finding("store", "broken", problem, mend)
    if problems:
        return
    for role in ROLES:
        try:
            named = getattr(settings, role)
            permissive = settings.licence_policy == "permissive"
            entry = store.find(named) if named else store.default(role, permissive=permissive)
        except ServiceError as error:
            yield Finding(f"model {role}", "broken", str(error), "`poselift models list` names those that there are")
        else:
            yield Finding(f"model {role}", "ok", entry.label)
    if settings.lift is None and (moving := store.long_lifter(settings.licence_policy == "permissive")) is not None:
        yield Finding("model lift, for what moves", "ok", moving.label)


def _port(settings: Settings) -> Iterator[Finding]:
    if not settings.port:
        return
    try:
        family, kind, _, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(address)
    except OSError as error:
        told = f"{settings.host}:{settings.port} cannot be opened: {error.strerror or error}"
        yield Finding("port", "broken", told, "stop what holds it (a service that runs already?), or set `port`")
    else:
        yield Finding("port", "ok", f"{settings.host}:{settings.port} is free")


def _keys(settings: Settings) -> Iterator[Finding]:
    if settings.keys or settings.key_file:
        if settings.key_file and not os.access(settings.key_file, os.R_OK):
            yield Finding("keys", "broken", f"`key_file` {settings.key_file} cannot be read", "its path, owner or mode")
        else:
            yield Finding("keys", "ok", "callers need one")
    elif settings.on_loopback:
        yield Finding("keys", "ok", "none: whoever is on this machine may call")
    elif settings.allow_keyless:
        told = f"none, and `host` is {settings.host}: whoever reaches the port may call"
        yield Finding("keys", "degraded", told, "set `key_file`")
    else:
        yield Finding("keys", "broken", f"none, and `host` is {settings.host}", "set `key_file`, or `allow_keyless`")


def _disk(settings: Settings) -> Iterator[Finding]:
    folder = Path(tempfile.gettempdir())
    free = shutil.disk_usage(folder).free // 2**20
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        yield Finding("uploads", "broken", f"{folder} cannot be written to: {error}", "mount a volume there, or TMPDIR")
        return
    if free < settings.max_clip_mb:
        told = f"{folder} has {free} MB free, and one clip may have {settings.max_clip_mb}"
        yield Finding("uploads", "degraded", told, "more room, TMPDIR elsewhere, or a lower `max_clip_mb`")
    else:
        yield Finding("uploads", "ok", f"{folder} has {free} MB free")


def _tracing(settings: Settings) -> Iterator[Finding]:
    there = installed()
    if not settings.tracing:
        yield Finding("tracing", "ok", "off" if there else "off; OpenTelemetry's packages are not installed")
    elif not there:
        told = "`tracing` is on, and OpenTelemetry's packages are not installed"
        yield Finding("tracing", "broken", told, f"pip install '{EXTRA}', or set `tracing` to false")
    else:
        yield Finding("tracing", "ok", "on; OTEL_EXPORTER_OTLP_ENDPOINT says where spans go")


def _files(settings: Settings) -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.max_sockets + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        told = (
            f"{soft} files at once, and `max_sockets` {settings.max_sockets} needs {wanted}: callers would be cut off"
        )
        most = "more" if hard == resource.RLIM_INFINITY else str(hard)
        yield Finding(
            "ulimit -n", "degraded", told, f"`ulimit -n {wanted}` ({most} is allowed), or lower `max_sockets`"
        )
    else:
        yield Finding("ulimit -n", "ok", "unlimited" if soft == resource.RLIM_INFINITY else str(soft))


LOOKS: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
    _libraries,
    _chosen_device,
    _processor,
    _threads,
    _throttling,
    _memory,
    _store,
    _keys,
    _port,
    _disk,
    _files,
    _tracing,
)
