"""Public weights from the internet or a firm's mirror into the store: whole, checked while they come, resumable.

Proxies are the environment's (HTTPS_PROXY, NO_PROXY, ...). Nothing of a file is looked at before its digest is right.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from service.errors import SettingWrong, Unknown, Unreadable
from service.store.store import Entry, Store
from service.store.weights import checksum

from .entry import import_file
from .recognise import PublicFile, public_files

ALL = "all-permissive"
DOWNLOADS = ".downloads"  # in the store; the dot hides it from whoever reads that
PIECE = 1 << 18
MOST_BYTES = 2 << 30  # ten times the largest published file

Progress = Callable[[int, int | None], None]  # bytes so far and in all, None where the server does not say


@dataclass(frozen=True)
class Patience:
    """silence_s: without a byte, until a connection counts as lost; attempts that bring nothing, until it is given up;
    pause_s before the second, twice that before the third, and so on."""

    silence_s: float = 30.0
    attempts: int = 5
    pause_s: float = 2.0


def chosen(names: Sequence[str], accept_licence: bool = False) -> list[PublicFile]:
    """The public files of those names; `all-permissive` stands for every one that asks for no more than a notice.

    Raises:
        Unknown: there is none of that name.
        SettingWrong: its terms must be accepted first; the message says them.
    """
    rows = {row.name: row for row in public_files()}
    found: dict[str, PublicFile] = {}
    for name in names:
        if name != ALL and name not in rows:
            raise Unknown(f"no public weights {name[:80]!r}; there are {', '.join([ALL, *rows])}", field="NAME")
        found |= {row.name: row for row in rows.values() if (row.permissive if name == ALL else row.name == name)}
    for row in found.values():
        if not row.permissive and not accept_licence:
            raise SettingWrong(
                f"{row.name} is not free for every use: {terms(row)}. With --accept-licence it is fetched"
            )
    return list(found.values())


def terms(row: PublicFile) -> str:
    """Licence of the weights, and of the data behind them."""
    learned = "; ".join(f"{source.name} ({source.licence}: {source.terms})" for source in row.data)
    return f"{row.licence}, {row.made_by}; learned from {learned}"


def fetch(
    row: PublicFile,
    store: Store,
    *,
    mirror: str | None = None,
    progress: Progress = lambda done, total: None,
    patience: Patience = Patience(),
) -> Entry:
    """Downloads and imports one public file; one that is in the store already is given as it is.

    Args:
        mirror: an address under which the file lies by its name, instead of its publisher's.

    Raises:
        Unreadable: it cannot be had, is not the published file, or cannot be imported.
        StoreBroken: the store is.
    """
    store.folder.mkdir(parents=True, exist_ok=True)
    for entry in reversed(store.entries()):
        if entry.manifest.name == row.name and entry.manifest.training.get("file") == row.file:
            return entry
    folder = store.folder / DOWNLOADS
    folder.mkdir(exist_ok=True)
    address = row.address if mirror is None else f"{mirror.rstrip('/')}/{row.file}"
    whole = folder / row.file
    download(address, whole, row.sha256, progress, patience)
    entry = import_file(whole, row.name, store, row=row)
    whole.unlink()
    return entry


def download(address: str, target: Path, sha256: str, progress: Progress, patience: Patience = Patience()) -> None:
    """Brings a file; `target` exists only once it is whole and right.

    What an earlier call brought is kept beside it and continued from, but not where no digest could tell whether the
    two halves belong together.

    Args:
        sha256: the first digits of the digest, or "".

    Raises:
        Unreadable: the server refuses, cannot be reached, or sends another file.
    """
    if target.is_file() and sha256 and checksum(target).startswith(sha256):
        return
    part = target.with_name(f"{target.name}.part")
    if not sha256:
        part.unlink(missing_ok=True)
    failures, anew = 0, False
    while True:
        before = _size(part)
        try:
            digest = _continued(address, part, progress, patience, resume=bool(sha256))
        except httpx.UnsupportedProtocol as error:
            raise Unreadable(f"{address} cannot be read: {error}") from error
        except httpx.TransportError as error:
            failures = 1 if _size(part) > before else failures + 1
            if failures >= patience.attempts:
                reason = str(error) or type(error).__name__
                raise Unreadable(f"{address} cannot be read, {_size(part)} bytes came: {reason}") from error
            time.sleep(patience.pause_s * failures)
            continue
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unreadable(f"{address} cannot be read: {error}") from error
        if digest.startswith(sha256):
            part.replace(target)
            return
        part.unlink()
        if before == 0 or anew:
            raise Unreadable(
                f"{address} is not the published file: its SHA-256 must begin with {sha256}, it is {digest}"
            )
        anew = True  # perhaps an old half and a new one that do not belong together


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _continued(address: str, part: Path, progress: Progress, patience: Patience, *, resume: bool) -> str:
    """Appends to `part` what it lacks and gives the digest of the whole. Raises what httpx raises."""
    have = _size(part) if resume else 0
    # Compressed on the way, the bytes that are counted would not be the file's.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    timeout = httpx.Timeout(patience.silence_s)
    with (
        httpx.Client(follow_redirects=True, timeout=timeout) as client,
        client.stream("GET", address, headers=headers) as answer,
    ):
        # A range that begins at the end: nothing is lacking, or the file has become shorter; the digest knows.
        if have and answer.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            return checksum(part)
        if answer.status_code == httpx.codes.TOO_MANY_REQUESTS or answer.status_code >= 500:
            raise httpx.RemoteProtocolError(f"the server answers {answer.status_code}")
        answer.raise_for_status()
        if answer.status_code != httpx.codes.PARTIAL_CONTENT:
            have = 0
        digest = hashlib.sha256()
        with part.open("r+b" if have else "wb") as file:
            while have and (piece := file.read(PIECE)):
                digest.update(piece)
            total = int(length) + have if (length := answer.headers.get("Content-Length", "")).isdigit() else None
            for piece in answer.iter_raw():  # as they come: whole pieces of a size would lose the last at a break
                file.write(piece)
                digest.update(piece)
                have += len(piece)
                if have > MOST_BYTES:
                    raise Unreadable(f"{address} sends more than {MOST_BYTES} bytes", limit=MOST_BYTES)
                progress(have, total)
        return digest.hexdigest()
