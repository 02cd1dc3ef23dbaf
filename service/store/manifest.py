"""What a model says of itself: `manifest.toml`, read strictly and written back. Knows what it says, not what it means.

The tables `options`, `input`, `training`, `presence` and `certainty` are free: their keys are the network's, the
framing's, the recipe's and the pipelines'.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from service.errors import StoreBroken

Role = Literal["person", "pose", "lift"]
ROLES: tuple[Role, ...] = get_args(Role)
# SPDX names of licences that ask for no more than a notice.
PERMISSIVE = frozenset({"0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC-BY-4.0", "CC0-1.0", "ISC", "MIT"})

T = TypeVar("T")
_NAME = re.compile(r"[a-z0-9][a-z0-9.-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class WeightsFile:
    """The file of the weights.

    licence: what their publisher states, by its SPDX name.
    restricted: trained on research photos, so not permissive whatever the licence.
    sha256, bytes: empty until the file is written; `Store.add` fills them in.
    """

    licence: str
    restricted: bool
    file: str = "weights.safetensors"
    sha256: str = ""
    bytes: int = 0


@dataclass(frozen=True)
class DataSource:
    """Data that the weights learned from, and the terms that it came under."""

    name: str
    licence: str
    terms: str


@dataclass(frozen=True)
class Score:
    """One figure, with the protocol that makes it comparable."""

    protocol: str
    metric: str
    value: float


@dataclass(frozen=True)
class Manifest:
    """One version of one model.

    network, options: what `networks.create` is called with.
    input: preset of preprocessing and decoding; its keys are read by the framings.
    joints: name of the skeleton that it answers in; empty for a finder.
    training: recipe, seed, commit and whatever else repeats it; empty for what was trained elsewhere.
    presence: of a finder, by detector (name@version): how score and pose become the chance that a person is there.
    certainty: of a detector: how the heights of its peaks become the scores of joints.
    default: stands before the others of its role when nobody names a model.
    long: of the lifters the one for sequences of more frames than the default's window holds.
    """

    name: str
    version: int
    role: Role
    network: str
    summary: str
    weights: WeightsFile
    options: Mapping[str, Any] = field(default_factory=dict)
    input: Mapping[str, Any] = field(default_factory=dict)
    data: tuple[DataSource, ...] = ()
    training: Mapping[str, Any] = field(default_factory=dict)
    presence: Mapping[str, Any] = field(default_factory=dict)
    certainty: Mapping[str, Any] = field(default_factory=dict)
    scores: tuple[Score, ...] = ()
    joints: str = ""
    default: bool = False
    long: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError for a name, version, role or file name that cannot be one."""
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"`name` must be lower-case letters, digits, dots and dashes, got {self.name!r}")
        if self.version < 1:
            raise ValueError(f"`version` must be 1 or more, got {self.version}")
        if self.role not in ROLES:
            raise ValueError(f"`role` must be one of {', '.join(ROLES)}, got {self.role!r}")
        file = self.weights.file
        if not file or file.startswith(".") or re.search(r"[/\\]", file):
            raise ValueError(f"`weights.file` must be a plain file name beside the manifest, got {file!r}")

    @property
    def label(self) -> str:
        """`name@version`."""
        return f"{self.name}@{self.version}"

    @property
    def permissive(self) -> bool:
        """Whether the weights may be used by anybody: published so, and not marked as trained here on research photos.

        A publisher's licence counts as it is stated; the terms of the data behind it stand in `data`.
        """
        return self.weights.licence in PERMISSIVE and not self.weights.restricted


def read(path: Path) -> Manifest:
    """Reads a manifest.

    Raises:
        StoreBroken: the file is missing or no TOML; a key is missing, unknown, of the wrong kind or out of its range.
    """
    try:
        table = _Table(tomllib.loads(path.read_text(encoding="utf-8")), str(path), "")
    except (OSError, ValueError, RecursionError) as error:  # the last for brackets inside brackets
        raise StoreBroken(f"{path} cannot be read: {error}") from error
    weights = table.table("weights")
    try:
        manifest = Manifest(
            name=table.take("name", str),
            version=table.take("version", int),
            role=table.take("role", str),  # type: ignore[arg-type]  # checked by the Manifest
            network=table.take("network", str),
            summary=table.take("summary", str),
            joints=table.take("joints", str, ""),
            default=table.take("default", bool, False),
            long=table.take("long", bool, False),
            options=table.take("options", dict, {}),
            input=table.take("input", dict, {}),
            training=table.take("training", dict, {}),
            presence=table.take("presence", dict, {}),
            certainty=table.take("certainty", dict, {}),
            weights=WeightsFile(
                file=weights.take("file", str),
                sha256=weights.take("sha256", str),
                bytes=weights.take("bytes", int),
                licence=weights.take("licence", str),
                restricted=weights.take("restricted", bool),
            ),
            data=tuple(
                DataSource(row.take("name", str), row.take("licence", str), row.take("terms", str))
                for row in table.rows("data")
            ),
            scores=tuple(
                Score(row.take("protocol", str), row.take("metric", str), row.take("value", float))
                for row in table.rows("scores")
            ),
        )
    except ValueError as error:
        raise StoreBroken(f"{path}: {error}") from error
    weights.end()
    table.end()
    if not _SHA256.fullmatch(manifest.weights.sha256):
        raise StoreBroken(f"{path}: `weights.sha256` must be 64 hexadecimal digits, got {manifest.weights.sha256!r}")
    if manifest.weights.bytes < 1:
        raise StoreBroken(f"{path}: `weights.bytes` must be 1 or more, got {manifest.weights.bytes}")
    return manifest


class _Table:
    """A table of the file, from which keys are taken; what is left at the end is unknown."""

    def __init__(self, values: dict[str, Any], file: str, place: str) -> None:
        self._left, self._file, self._place = dict(values), file, place

    def take(self, key: str, kind: type[T], default: T | None = None) -> T:
        if key not in self._left:
            if default is None:
                raise StoreBroken(f"{self._file} lacks `{self._place}{key}`")
            return default
        value = self._left.pop(key)
        if kind is float and type(value) is int and abs(value) < 2**63:
            value = float(value)
        if type(value) is not kind:  # not isinstance: true is no version 1
            raise StoreBroken(
                f"{self._file}: `{self._place}{key}` must be {kind.__name__}, got {type(value).__name__} {value!r}"
            )
        found: T = value
        return found

    def table(self, key: str) -> _Table:
        return _Table(self.take(key, dict), self._file, f"{self._place}{key}.")

    def rows(self, key: str) -> Iterator[_Table]:
        for index, values in enumerate(self.take(key, list, [])):
            place = f"{key}[{index}]"
            if not isinstance(values, dict):
                raise StoreBroken(f"{self._file}: `{place}` must be a table, got {values!r}")
            row = _Table(values, self._file, f"{place}.")
            yield row
            row.end()

    def end(self) -> None:
        for key in self._left:
            raise StoreBroken(f"{self._file}: `{self._place}{key}` is not known")


def to_toml(manifest: Manifest) -> str:
    """The text of `manifest.toml`. `read` of it gives the same manifest.

    Raises:
        ValueError: a value in a free table is none of text, number, true or false, list or table.
    """
    plain = {key: getattr(manifest, key) for key in ("name", "version", "role", "network", "joints", "summary")}
    marks = {key: True for key in ("default", "long") if getattr(manifest, key)}
    parts = [_lines(plain | marks)]
    tables = {"options": manifest.options, "input": manifest.input, "weights": vars(manifest.weights)}
    parts += [f"[{name}]\n{_lines(table)}" for name, table in tables.items() if table]
    parts += [f"[[data]]\n{_lines(vars(source))}" for source in manifest.data]
    parts += [f"[training]\n{_lines(manifest.training)}"] if manifest.training else []
    for name in ("presence", "certainty"):
        parts += [f"[{name}]\n{_lines(table)}"] if (table := getattr(manifest, name)) else []
    parts += [f"[[scores]]\n{_lines(vars(score))}" for score in manifest.scores]
    return "\n".join(parts)


def _lines(table: Mapping[str, Any]) -> str:
    return "".join(f"{_key(key)} = {_value(value)}\n" for key, value in table.items())


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _value(key)


def _value(value: object) -> str:
    """A value on one line; tables inside others are written inline."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON's escapes are TOML's, but that JSON leaves DEL as it is.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float):
        return float.__repr__(value)  # numpy's float64 is a float whose own repr is no TOML
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(key)} = {_value(inner)}" for key, inner in value.items()) + "}"
    raise ValueError(f"a manifest holds text, numbers, true or false, lists and tables, not {value!r}")
