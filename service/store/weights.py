"""Weights as safetensors files: checksum first, never pickle. Knows names and arrays, not networks."""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from service.errors import StoreBroken

Array = NDArray[Any]

# Parts of the names that our networks give to what loses most in 16 bits: running statistics, embeddings, last layers.
_SENSITIVE = re.compile(
    r"(^|\.)(running_mean|running_var|\w*embed\w*|\w*token\w*|final_layer|weighted_mean|\w*head)(\.|$)"
)


def statistics_embeddings_and_heads(name: str) -> bool:
    """Whether a weight keeps its 32 bits in a 16-bit file, judged by its name."""
    return _SENSITIVE.search(name) is not None


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal, read in pieces.

    Raises:
        StoreBroken: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StoreBroken(f"{path} cannot be read: {error.strerror or error}") from error


def read_weights(path: Path, sha256: str) -> dict[str, Array]:
    """All arrays of a file, in the precision in which they are stored.

    Raises:
        StoreBroken: the file is missing, is not the one that was meant, or is no safetensors file.
    """
    found = checksum(path)
    if found != sha256:
        raise StoreBroken(f"{path} is not the file of its manifest: sha256 {sha256} is wanted, {found} was found")
    try:
        arrays: dict[str, Array] = load_file(path)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise StoreBroken(f"{path} is no safetensors file that can be read here: {error}") from error
    for name, array in arrays.items():
        if array.dtype.kind not in "fiub":  # another library may have taught numpy kinds that our code does not read
            raise StoreBroken(f"{path}: `{name}` is of the kind {array.dtype}, which is not read here")
    return arrays


def write_weights(
    path: Path,
    arrays: Mapping[str, Array],
    half: bool = False,
    keep_full: Callable[[str], bool] = statistics_embeddings_and_heads,
) -> str:
    """Writes arrays to a file, at once or not at all, and returns its SHA-256.

    Args:
        half: floats become 16-bit, but those that `keep_full` names and those with a value beyond 16 bits (65504);
            these, and all floats without `half`, become 32-bit. Whole numbers stay as they are.

    Raises:
        ValueError: an array holds what is no number, or is of a kind that has no place in a file.
    """
    stored = {name: _stored(name, array, half and not keep_full(name)) for name, array in arrays.items()}
    content = save(stored)
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with beside.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return hashlib.sha256(content).hexdigest()


def _stored(name: str, array: Array, half: bool) -> Array:
    if array.dtype.kind not in "fiub":
        raise ValueError(f"`{name}` is of type {array.dtype}; weights are floats or whole numbers")
    if array.dtype.kind != "f":
        return np.array(array, order="C")
    if not np.isfinite(array).all():
        raise ValueError(f"`{name}` holds values that are no numbers")
    half = half and bool((np.abs(array) <= np.finfo(np.float16).max).all())
    return np.array(array, np.float16 if half else np.float32, order="C")
