"""Every setting, with unit, default and reason; nothing else reads the environment. Knows nobody who uses them.

A flag stands over a POSELIFT_ variable, that over poselift.toml, that over the default. Lists are comma separated in
flags and variables; an empty variable counts as not set.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator

from service.errors import SettingWrong

PREFIX = "POSELIFT_"
FILE = Path("poselift.toml")
DEFAULT = "default"
CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")

# What the field's bearer tokens may hold (RFC 6750); a comma is not among it, so a list of keys can be split.
Key = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._~+/=-]+$")]
Host = Annotated[str, StringConstraints(pattern=r"^[^\s/]+$")]
Origin = Annotated[str, StringConstraints(pattern=r"^https?://[^\s/]+$")]
Model = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]*(@[1-9][0-9]*)?$")]
OPTIONAL_MODEL = "as `name` or `name@version`; none: the store's default"


class Settings(BaseModel):
    """All settings, checked. A description says what the setting does, its unit, and why the default is what it is."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True, validate_default=True
    )

    host: str = Field(
        default="127.0.0.1", min_length=1, description="address to listen on; loopback, until an operator opens it"
    )
    port: int = Field(default=8000, ge=0, le=65535, description="TCP port; 0 takes a free one")
    store: Path | None = Field(
        default=None,
        description="folder of the model store; none: the one that comes with the package, so that it just runs",
    )
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda|cuda:[0-9]+)$",
        description="`auto` (CUDA if there is one), `cpu`, `cuda` or `cuda:N`; `cuda` without one fails at start",
    )
    precision: Literal["auto", "f32", "bf16", "f16"] = Field(
        default="auto",
        description="of the networks; `auto` takes what is fast on the device and within the stated tolerance",
    )
    threads: int = Field(
        default=0, ge=0, le=1024, description="threads of the networks on a CPU; 0: the CPUs that this process may use"
    )
    lanes: int = Field(
        default=0,
        ge=0,
        le=256,
        description="batches that a CPU runs at once, each on its share of `threads`; 0: one to each two threads, "
        "and two where there are two or three",
    )
    decode_threads: int = Field(
        default=0,
        ge=0,
        le=1024,
        description="threads that decode pictures and clips; 0: the CPUs that this process may use",
    )
    person: Model | None = Field(default=None, description=f"finder of people, {OPTIONAL_MODEL}")
    pose: Model | None = Field(default=None, description=f"detector of joints, {OPTIONAL_MODEL}")
    lift: Model | None = Field(default=None, description=f"lifter to 3D, {OPTIONAL_MODEL}")
    licence_policy: Literal["any", "permissive"] = Field(
        default="any",
        description="`permissive` serves only weights that are published under a permissive licence, "
        "or trained here without research photos",
    )
    person_side: int = Field(
        default=576,
        ge=128,
        le=1920,
        multiple_of=32,
        description="side of the finder's input in pixels, a multiple of 32; more finds smaller people and costs its "
        "square; 576 scored best with the embedded finder on sharp photos",
    )
    queue_rows: int = Field(
        default=256,
        ge=1,
        le=1_000_000,
        description="rows that may wait for each network; beyond it 503 at once, not a long wait",
    )
    queue_mb: int = Field(
        default=1024,
        ge=1,
        le=1_048_576,
        description="MB (2^20 bytes) of decoded pictures that may wait for each network; beyond it 503. 1024 are 29 "
        "photos of 12 million pixels, whose bodies are a tenth of that",
    )
    caller_share: float = Field(
        default=0.5, gt=0, le=1, description="part of a queue that one caller may fill while others wait; beyond it 429"
    )
    batch_ms: float = Field(
        default=75,
        gt=0,
        le=10_000,
        description="milliseconds that a batch may take, as measured while warming: a live row waits for one that runs",
    )
    remembered_frames: int = Field(
        default=4096,
        ge=0,
        le=1_000_000,
        description="frames of keypoints of which a CPU keeps what the lifter made of each (2.7 kB): windows of "
        "streams and clips share most of theirs; 0: none",
    )
    queue_window_ms: float = Field(
        default=0,
        ge=0,
        le=1000,
        description="milliseconds that an idle device waits for more rows; 0: none, batches form while it works",
    )
    deadline_ms: int = Field(
        default=30_000, ge=1, description="milliseconds until a request without `Request-Timeout-Ms` gets 504"
    )
    max_deadline_ms: int = Field(
        default=600_000, ge=1, le=86_400_000, description="the most milliseconds that `Request-Timeout-Ms` may ask for"
    )
    max_image_mb: int = Field(
        default=32, ge=1, le=1024, description="MB (2^20 bytes) of an encoded picture; phones' photos stay under 20"
    )
    max_image_mpx: int = Field(
        default=50,
        ge=1,
        le=1000,
        description="millions of pixels of a picture, told from its header; 50 are 150 MB decoded",
    )
    max_clip_mb: int = Field(
        default=512, ge=1, le=65_536, description="MB (2^20 bytes) of a clip, which is kept on disk"
    )
    max_clips_mb: int = Field(
        default=2048,
        ge=1,
        le=1_048_576,
        description="MB (2^20 bytes) of clips on disk, all requests together; what runs out of a pod's disk is evicted",
    )
    max_clip_s: float = Field(
        default=600, gt=0, le=86_400, description="seconds of a clip; a longer one holds a caller's turn"
    )
    max_clip_frames: int = Field(default=36_000, ge=1, description="frames of a clip; 600 s at 60 a second")
    max_spool_mb: int = Field(
        default=256,
        ge=1,
        le=65_536,
        description="MB (2^20 bytes) on disk of the people of a clip that a file is made of, and as many of the file; "
        "256 are 600,000 people of a frame",
    )
    max_frames: int = Field(
        default=20_000, ge=1, description="frames of a sequence for the lifter, all people together"
    )
    max_people: int = Field(
        default=100, ge=1, le=1000, description="the most people that a request may ask for in one picture"
    )
    max_uploads_mb: int = Field(
        default=1024,
        ge=1,
        le=1_048_576,
        description="MB (2^20 bytes) of bodies held in memory, all requests together; beyond it 503. Clips are on disk",
    )
    max_sockets: int = Field(
        default=2048,
        ge=16,
        le=1_000_000,
        description="connections at once, streams and probes among them; beyond it 503. Above what the file limit of "
        "most systems leaves a process it would do nothing",
    )
    header_timeout_s: float = Field(
        default=10,
        gt=0,
        le=3600,
        description="seconds that a connection has for the head of a request; then 408, so that idlers hold no socket",
    )
    live_streams: int = Field(
        default=64,
        ge=0,
        le=100_000,
        description="live streams at once; beyond it 1013, so that those who are in stay live",
    )
    live_idle_s: float = Field(
        default=60, gt=0, le=86_400, description="seconds without a message after which a live stream is closed (1001)"
    )
    live_max_s: float = Field(
        default=14_400,
        gt=0,
        le=864_000,
        description="seconds after which a live stream is closed (1001); 4 hours: a forgotten camera ends some day",
    )
    drain_delay_s: float = Field(
        default=5,
        ge=0,
        le=3600,
        description="seconds between `not ready` and the closed port, for load balancers to notice",
    )
    drain_grace_s: float = Field(
        default=45,
        ge=0,
        le=86_400,
        description="seconds that admitted work has after that; the supervisor must give more",
    )
    keys: tuple[Key, ...] = Field(
        default=(),
        exclude=True,
        description="bearer keys, one of which a caller must hold; empty: open to whoever reaches it",
    )
    key_file: Path | None = Field(
        default=None,
        description="file of further keys, one a line, read again when it changes; a key with ` admin` behind it may "
        "also load and unload models",
    )
    allow_keyless: bool = Field(
        default=False,
        description="listen beyond loopback without any key; off, since nobody should open a service by mistake",
    )
    hosts: tuple[Host, ...] = Field(
        default=(),
        description="Host headers that are served, the port may be left out; empty: on loopback its own names, else "
        "any, so that no foreign page reaches a service on its reader's machine under a name of its own",
    )
    origins: tuple[Origin, ...] = Field(
        default=(),
        description="Origins beside the service's own whose pages may call, as `https://name`; empty: none",
    )
    trusted_proxies: tuple[str, ...] = Field(
        default=(), description="addresses or networks whose `X-Forwarded-For` is believed; empty: nobody's"
    )
    tracing: bool = Field(
        default=False,
        description="a span for each request and batch, sent over OTLP/HTTP as the OTEL_* variables say; needs the "
        "extra `otel`, and is off until there is a collector",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="the least level that is logged; `info` has a line a request"
    )
    log_format: Literal["auto", "json", "text"] = Field(
        default="auto", description="of the log; `auto` is text on a terminal, else JSON lines"
    )

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, proxies: tuple[str, ...]) -> tuple[str, ...]:
        for proxy in proxies:
            ip_network(proxy, strict=False)
        return proxies

    @model_validator(mode="after")
    def _deadlines(self) -> Settings:
        if self.deadline_ms > self.max_deadline_ms:
            raise ValueError(f"`deadline_ms` {self.deadline_ms} is over `max_deadline_ms` {self.max_deadline_ms}")
        if self.max_clip_mb > self.max_clips_mb:
            raise ValueError(f"`max_clip_mb` {self.max_clip_mb} is over `max_clips_mb` {self.max_clips_mb}")
        return self

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return _on_loopback(self.host)

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        """What repr and str show: everything but the keys."""
        return [(name, shown(name, value) if name == "keys" else value) for name, value in self]

    @property
    def network_threads(self) -> int:
        """Threads of the networks on a CPU, `threads` with 0 resolved."""
        return self.threads or cpu_limit()

    @property
    def network_lanes(self) -> int:
        """Batches that run at once on a CPU, `lanes` with 0 resolved."""
        threads = self.network_threads
        return min(self.lanes or max(min(threads, 2), threads // 2), threads)

    @property
    def decoders(self) -> int:
        """Threads that decode, `decode_threads` with 0 resolved."""
        return self.decode_threads or cpu_limit()


@dataclass(frozen=True)
class Loaded:
    """Settings, and by name where each comes from: `default`, `poselift.toml`, `POSELIFT_X` or `--x`.

    ignored: variables that begin with POSELIFT_ and are no settings. A cluster sets some for a Service of that name,
    so they are worth a warning and no more.
    """

    settings: Settings
    sources: Mapping[str, str]
    ignored: tuple[str, ...] = ()


class Row(NamedTuple):
    """One setting, in words."""

    name: str
    value: str
    source: str
    description: str


def load(
    flags: Mapping[str, str | None] | None = None,
    environment: Mapping[str, str] | None = None,
    toml: Path = FILE,
) -> Loaded:
    """Reads all settings.

    Args:
        flags: by the setting's name (`max_image_mb`); None: not given.
        environment: None: the process's own.
        toml: need not exist.

    Raises:
        SettingWrong: a value out of its range, an unknown flag, or an unknown key of the file.
    """
    environment = os.environ if environment is None else environment
    fields = Settings.model_fields
    found: dict[str, tuple[object, str]] = {}
    for name, value in _read(toml).items():
        found[_known(name, toml.name)] = (_strict(name, value, toml.name), toml.name)
    for name in fields:
        variable = PREFIX + name.upper()
        text = environment.get(variable)
        # An empty variable is one that a template left out; but an empty list of keys is refused, not passed over.
        if text or (text is not None and name == "keys"):
            found[name] = (_split(name, text, variable), variable)
    for name, text in (flags or {}).items():
        if text is not None:
            flag = "--" + name.replace("_", "-")
            found[_known(name, flag)] = (_split(name, text, flag), flag)
    sources = {name: found[name][1] if name in found else DEFAULT for name in fields}
    try:
        settings = Settings.model_validate({name: value for name, (value, _) in found.items()})
    except ValidationError as error:
        raise _wrong(error, found) from None  # its own text would repeat the values, keys among them
    names = {PREFIX + name.upper() for name in fields}
    ignored = tuple(sorted(name for name in environment if name.startswith(PREFIX) and name not in names))
    return Loaded(settings, sources, ignored)


def rows(loaded: Loaded) -> list[Row]:
    """Every setting with its value and source, for people to read. Keys are counted, never shown."""
    return [
        Row(name, shown(name, getattr(loaded.settings, name)), loaded.sources[name], field.description or "")
        for name, field in Settings.model_fields.items()
    ]


def shown(name: str, value: object) -> str:
    """A value as people may read it."""
    if value is None or value == ():
        return "none"
    if name == "keys":
        return f"set ({len(value)})" if isinstance(value, tuple) else "set"
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _read(toml: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(toml.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise SettingWrong(f"{toml} cannot be read: {error}", field=toml.name) from error


def _known(name: str, source: str) -> str:
    if name in Settings.model_fields:
        return name
    near = difflib.get_close_matches(name.replace("-", "_"), Settings.model_fields, n=3)
    hint = f"; near it: {', '.join(near)}" if near else "; `poselift settings` lists all"
    raise SettingWrong(f"`{name}` ({source}) is no setting{hint}", field=name, limit=near or None)


def _strict(name: str, value: object, source: str) -> object:
    """A value of the file. It has a type of its own there, so true is not 1."""
    if isinstance(value, bool) and Settings.model_fields[name].annotation is not bool:
        raise SettingWrong(f"`{name}` ({source}): cannot be true or false; got {str(value).lower()}", field=name)
    return value


def _split(name: str, text: str, source: str) -> object:
    """The text of a flag or variable; the model turns it into numbers."""
    kind = Settings.model_fields[name].annotation if name in Settings.model_fields else str
    if get_origin(kind) is tuple:
        parts = tuple(part.strip() for part in text.split(",") if part.strip())
        if name == "keys" and not parts:
            # A secret that failed to arrive must not open the service.
            raise SettingWrong(f"`keys` ({source}): is set but empty; name a key, or leave it out", field="keys")
        return parts
    if get_origin(kind) is Literal:
        return text.strip().lower()
    return None if text == "" and type(None) in get_args(kind) else text.strip()


def _wrong(error: ValidationError, found: Mapping[str, tuple[object, str]]) -> SettingWrong:
    """The first thing that a validation found, in our words."""
    first = error.errors(include_url=False)[0]
    # A rule over two settings belongs to no single one: the deadlines' is the only one.
    name = str(first["loc"][0]) if first["loc"] else "deadline_ms"
    value, source = found.get(name, (Settings.model_fields[name].default, DEFAULT))
    limit = re.sub(r"^(Input|String|Value error,) ", "", first["msg"])
    came = "a value that is not shown" if name == "keys" else repr(value)
    message = f"`{name}` ({source}): {limit}; got {came}"
    if name == "port" and str(value).startswith("tcp://"):
        message += (
            ". Kubernetes sets this variable for a Service of this name: set `enableServiceLinks: false` in the pod, "
            "or give --port"
        )
    return SettingWrong(message, field=name, limit=limit)


def cpu_limit(groups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int:
    """CPUs that this process may use: the least of its affinity and its cgroups' quotas, rounded down, at least 1.

    Rounded down because threads over a quota stop each other for whole scheduler periods.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cpus, int(min(_quotas(groups, membership), default=cpus))))


def _quotas(groups: Path, membership: Path) -> list[float]:
    """CPUs by the quota of this process's cgroup and of each one above it; version 2, and 1 with its own hierarchy."""
    try:
        lines = [line.split(":", 2) for line in membership.read_text().splitlines()]
    except OSError:
        return []
    found = []
    for _, controllers, path in (line for line in lines if len(line) == 3):
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = groups / controllers if controllers else groups
        top = top if top.is_dir() else groups / "cpu"
        inside = Path(path.lstrip("/"))
        # In a container the path may be the host's, which is not there: what is mounted at the top is then the group.
        for folder in (top / inside, *(top / parent for parent in inside.parents), top):
            for files in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
                try:
                    numbers = " ".join((folder / file).read_text() for file in files).split()
                    quota, period = float(numbers[0]), float(numbers[1])
                except (OSError, ValueError, IndexError):
                    continue  # not there, or "max": no quota here
                if quota > 0 and period > 0:
                    found.append(quota / period)
    return found


@lru_cache(maxsize=8)  # asked at every request
def _on_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
