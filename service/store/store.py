"""The store: `<name>/<version>/` with weights, manifest and card. Plain files; knows no torch and loads no network."""

from __future__ import annotations

import contextlib
import errno
import re
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from service.errors import OutOfRange, ServiceError, StoreBroken, Unknown

from .manifest import Manifest, Role, read, to_toml
from .weights import read_weights, statistics_embeddings_and_heads, write_weights

MANIFEST, CARD, NOTICE = "manifest.toml", "CARD.md", "NOTICE"
IMPORTED = "imported"  # in [training]: when a file of somebody else's was imported, ISO 8601 in UTC
ABANDONED_S = 3600.0  # without a change, until a version that was being added counts as given up
GROWING = re.compile(r"\.[a-z0-9.-]+@\d+\.[0-9a-f]{32}")

Array = NDArray[Any]


def embedded_store() -> Path:
    """The folder that comes with the package: inside it when installed from a wheel, beside it in a clone."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "model_store"
    return inside if inside.is_dir() else package.parent / "model_store"


@dataclass(frozen=True)
class Entry:
    """One version of one model, and where it lies."""

    manifest: Manifest
    folder: Path

    @property
    def label(self) -> str:
        """`name@version`."""
        return self.manifest.label

    @property
    def permissive(self) -> bool:
        """Whether the licence policy `permissive` lets it be served."""
        return self.manifest.permissive

    @property
    def weights_path(self) -> Path:
        """The file of the weights."""
        return self.folder / self.manifest.weights.file

    def load(self) -> dict[str, Array]:
        """The weights by name, as stored. Raises StoreBroken, see `read_weights`."""
        return read_weights(self.weights_path, self.manifest.weights.sha256)


class Store:
    """A folder of models. It is read at the first question, once: what is served does not change under way.

    whole: a manifest that is not what it must be breaks the store; else that version is left out.
    """

    def __init__(self, folder: Path, *, whole: bool = True) -> None:
        self.folder, self._whole = folder, whole
        self._entries: tuple[Entry, ...] | None = None

    def entries(self) -> tuple[Entry, ...]:
        """All versions of all models, by name and then version.

        Raises:
            StoreBroken: there is no such folder, or a manifest in it is not what it must be.
        """
        if self._entries is None:
            if self._whole:
                found = [_entry(folder) for folder in self._folders()]
            else:
                found = [entry for _, entry, _ in self.survey() if entry]
            self._entries = tuple(sorted(found, key=lambda entry: (entry.manifest.name, entry.manifest.version)))
        return self._entries

    def survey(self) -> list[tuple[str, Entry | None, str]]:
        """Every version as the folder is now: `name@version`, its entry, and what is wrong where there is none."""
        found: list[tuple[str, Entry | None, str]] = []
        for folder in self._folders():
            label = f"{folder.parent.name}@{folder.name}"
            try:
                found.append((label, _entry(folder), ""))
            except StoreBroken as error:
                found.append((label, None, str(error).replace(f"{self.folder}/", "")))
        return found

    def find(self, label: str, version: int | None = None) -> Entry:
        """The model `name@version`, or the newest version of `name`.

        Raises:
            Unknown: there is none.
        """
        name, at, number = label.partition("@")
        wanted = str(version) if version is not None else number if at else None
        for entry in reversed(self.entries()):
            if entry.manifest.name == name and wanted in (None, str(entry.manifest.version)):
                return entry
        there = [entry.label for entry in self.entries()]
        asked = label if version is None else f"{name}@{version}"
        raise Unknown(f"no model {asked[:80]!r}; there are {', '.join(there) or 'none'}", field="models", limit=there)

    def default(self, role: Role, permissive: bool = False) -> Entry:
        """Who serves a role when nobody is named: one whose manifest says `default`.

        Where none does: the highest version of what came with the package or was released here, of equal ones the
        first by name. Only where there is nothing else, what was imported, and then what was imported first: an import
        never changes who serves.

        Args:
            permissive: only what `Manifest.permissive` says yes to.

        Raises:
            Unknown: there is none.
        """
        fitting = [entry for entry in self._of(role, permissive) if not entry.manifest.long]
        if not fitting:
            kind = "permissive " if permissive else ""
            raise Unknown(f"{self.folder} has no {kind}model for the role `{role}`", field=role)
        return min(fitting, key=_precedence)

    def long_lifter(self, permissive: bool = False) -> Entry | None:
        """Who lifts long sequences when nobody is named: the newest that says `long`, if there is one."""
        fitting = [entry for entry in self._of("lift", permissive) if entry.manifest.long]
        return max(fitting, key=lambda entry: entry.manifest.version, default=None)

    def _of(self, role: Role, permissive: bool) -> list[Entry]:
        entries = [entry for entry in self.entries() if entry.manifest.role == role]
        return [entry for entry in entries if entry.permissive or not permissive]

    def check(self) -> list[str]:
        """Everything that is wrong with the files, each with its name; empty if nothing is. Reads every weight."""
        try:
            folders = self._folders()
        except StoreBroken as error:
            return [str(error)]
        problems = [f"{folder}: a version is a whole number" for folder in self._strangers()]
        defaults: dict[str, set[str]] = {}
        for folder in folders:
            try:
                entry = _entry(folder)
                if entry.manifest.default:
                    defaults.setdefault(entry.manifest.role, set()).add(entry.manifest.name)
                entry.load()
                size = entry.weights_path.stat().st_size
            except (ServiceError, OSError) as error:
                problems.append(str(error))
                continue
            if size != entry.manifest.weights.bytes:
                problems.append(
                    f"{folder / MANIFEST}: `weights.bytes` is {entry.manifest.weights.bytes}, the file has {size}"
                )
            if not (folder / CARD).is_file():
                problems.append(f"{folder / CARD} is missing")
        for role, names in defaults.items():
            if len(names) > 1:
                problems.append(
                    f"{self.folder}: `default` of the role `{role}` is claimed by {', '.join(sorted(names))}"
                )
        return problems

    def add(
        self,
        manifest: Manifest,
        arrays: Mapping[str, Array],
        card: str,
        notice: str | None = None,
        *,
        half: bool = False,
        keep_full: Callable[[str], bool] = statistics_embeddings_and_heads,
    ) -> Entry:
        """Adds a version, whole or not at all. The checksum and size in the manifest are made here.

        Args:
            card: the text of `CARD.md`.
            notice: the text of `NOTICE`, for weights that came from elsewhere.
            half, keep_full: see `write_weights`.

        Raises:
            OutOfRange: there is this version already; versions never change.
            ValueError: a weight is not finite, or a value of the manifest has no form in TOML.
        """
        target = self.folder / manifest.name / str(manifest.version)
        taken = OutOfRange(f"{manifest.label} is in {self.folder} already; take the next version", field="version")
        if target.exists():
            raise taken
        self.folder.mkdir(parents=True, exist_ok=True)
        self._clear_abandoned()
        # Beside its place, so that the last step is one rename; the dot hides it from whoever reads meanwhile.
        growing = self.folder / f".{manifest.label}.{uuid.uuid4().hex}"
        growing.mkdir()
        try:
            weights = growing / manifest.weights.file
            sha256 = write_weights(weights, arrays, half, keep_full)
            written = replace(manifest.weights, sha256=sha256, bytes=weights.stat().st_size)
            manifest = replace(manifest, weights=written)
            texts = {MANIFEST: to_toml(manifest), CARD: card} | ({} if notice is None else {NOTICE: notice})
            for name, text in texts.items():
                (growing / name).write_text(text, encoding="utf-8")
            target.parent.mkdir(exist_ok=True)
            growing.rename(target)
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY):  # somebody else was faster
                raise taken from error
            raise
        finally:
            shutil.rmtree(growing, ignore_errors=True)
        self._entries = None
        return Entry(manifest, target)

    def _clear_abandoned(self) -> None:
        """Removes what an `add` that was killed has left; one that still writes has changed a file of late."""
        for folder in self.folder.iterdir():
            if not GROWING.fullmatch(folder.name) or folder.is_symlink() or not folder.is_dir():
                continue
            with contextlib.suppress(OSError):  # somebody else was faster
                changed = max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
                if time.time() - changed > ABANDONED_S:
                    shutil.rmtree(folder, ignore_errors=True)

    def _models(self) -> list[Path]:
        if not self.folder.is_dir():
            raise StoreBroken(f"{self.folder}: there is no such folder, so no model store")
        return sorted(path for path in self.folder.iterdir() if path.is_dir() and not path.name.startswith("."))

    def _folders(self) -> list[Path]:
        return [path for model in self._models() for path in sorted(model.iterdir()) if _is_version(path)]

    def _strangers(self) -> list[Path]:
        folders = (path for model in self._models() for path in sorted(model.iterdir()) if path.is_dir())
        return [path for path in folders if not _is_version(path) and not path.name.startswith(".")]


def _precedence(entry: Entry) -> tuple[bool, str, int, str]:
    """The least serves by default: marked before unmarked, released before imported, imported early before late."""
    manifest = entry.manifest
    imported = str(manifest.training.get(IMPORTED, ""))
    return not manifest.default, imported, -manifest.version, manifest.name


def _is_version(path: Path) -> bool:
    return path.is_dir() and path.name.isascii() and path.name.isdigit() and not path.name.startswith("0")


def _entry(folder: Path) -> Entry:
    manifest = read(folder / MANIFEST)
    place = f"{folder.parent.name}@{folder.name}"
    if manifest.label != place:
        raise StoreBroken(f"{folder / MANIFEST}: `name` and `version` say {manifest.label}, the folder says {place}")
    return Entry(manifest, folder)
