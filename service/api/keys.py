"""Who holds a key: the settings' keys and those of a file that is read again when it changes. Knows no requests.

Only hashes are kept, and all are compared, in constant time: how long it takes tells nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from service.errors import SettingWrong

if TYPE_CHECKING:
    from service.settings import Settings

log = logging.getLogger(__name__)

RELOAD_PERIOD_S = 2.0
MAX_FILE_BYTES = 1024 * 1024
_LINE = re.compile(r"(?P<key>[A-Za-z0-9._~+/=-]+)(?P<admin> +admin)?")


@dataclass(frozen=True)
class Holder:
    """name: what the key's work is counted under, and no way back to the key. admin: may also change what is served."""

    name: str
    admin: bool


class Keyring:
    """The keys of a service.

    Raises:
        SettingWrong: the file cannot be used, or nobody needs a key although others than this machine reach the port.
    """

    def __init__(self, settings: Settings) -> None:
        self._file = settings.key_file
        self._fixed = {_hash(key): False for key in settings.keys}
        self._from_file: dict[bytes, bool] = {}
        self._seen: tuple[int, ...] | None = None
        if self._file is not None:
            self._seen = _mark(self._file)
            self._from_file = read_keys(self._file)
        elif not self._fixed and not settings.on_loopback and not settings.allow_keyless:
            message = (
                f"`host` is {settings.host}, which others can reach, and there are no keys: set `key_file` or `keys`, "
                "or `allow_keyless` to true where the network itself keeps strangers out"
            )
            raise SettingWrong(message, field="keys")

    @property
    def required(self) -> bool:
        """Whether callers need a key."""
        return bool(self._fixed or self._from_file)

    def holder(self, key: str) -> Holder | None:
        """Who holds this key; None if it is none of ours."""
        given, found = _hash(key), None
        for known, admin in (self._fixed | self._from_file).items():
            if hmac.compare_digest(given, known):
                found = Holder(given.hex()[:16], admin)
        return found

    def reload(self) -> None:
        """Reads the file again if it has changed. If it cannot be used, this is logged and the keys stay."""
        if self._file is None:
            return
        try:
            mark = _mark(self._file)
            if mark == self._seen:
                return
            self._seen = mark
            self._from_file = read_keys(self._file)
        except SettingWrong as error:
            log.error("the keys stay as they were: %s", error)
        else:
            log.info("%s was read again: %d keys", self._file, len(self._from_file))

    async def watch(self) -> None:
        """Reloads for ever, off the loop."""
        while self._file is not None:
            await asyncio.sleep(RELOAD_PERIOD_S)
            await asyncio.to_thread(self.reload)


def read_keys(file: Path) -> dict[bytes, bool]:
    """Hash of each key to whether it is an admin's. Empty lines and those that begin with # are passed over.

    Raises:
        SettingWrong: unreadable, empty, or a line that is no key; the line's number is told and never the line.
    """
    try:
        with file.open("rb") as opened:
            text = opened.read(MAX_FILE_BYTES + 1)
        lines = text.decode("ascii").splitlines()
    except (OSError, ValueError) as error:
        reason = "it is no plain ASCII" if isinstance(error, ValueError) else str(error)
        raise SettingWrong(f"`key_file` {file} cannot be read: {reason}", field="key_file") from None
    if len(text) > MAX_FILE_BYTES:
        message = f"`key_file` {file} may have at most {MAX_FILE_BYTES} bytes"
        raise SettingWrong(message, field="key_file", limit=MAX_FILE_BYTES)
    keys: dict[bytes, bool] = {}
    for number, line in enumerate(lines, 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            rule = "a key of letters, digits and ._~+/=-, or that and ` admin`"
            raise SettingWrong(f"`key_file` {file}, line {number}: must be {rule}", field="key_file")
        keys[_hash(match["key"])] = match["admin"] is not None
    if not keys:
        raise SettingWrong(f"`key_file` {file} holds no key", field="key_file")
    return keys


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _mark(file: Path) -> tuple[int, ...] | None:
    """What changes with the file's content; a Secret's update swaps a link, so inode and device count as well."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
