"""npz files that hold dictionaries and lists, as Human3.6M and MPI-INF-3DHP come, read without running code.

numpy keeps such objects as a pickle, which may ask for anything to be run; here only arrays and numbers are made.
"""

from __future__ import annotations

import codecs
import collections
import pickle
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy._core.multiarray import _reconstruct, scalar
from numpy._core.numeric import _frombuffer  # type: ignore[attr-defined]

# What a pickle of dictionaries, lists and arrays names, by old and new numpy.
ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): codecs.encode,
    ("collections", "OrderedDict"): collections.OrderedDict,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _frombuffer for core in ("core", "_core")},
}


class _OnlyArrays(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise ValueError(
                f"it asks to run `{module}.{name}` when it is read, which data do not need; it was not run"
            )
        return ALLOWED[module, name]


def read_objects(path: Path, where_from: str) -> dict[str, Any]:
    """Every array of an npz by its name; one of no dimension that holds an object is that object.

    Args:
        where_from: said where the file is missing: how people get it.

    Raises:
        ValueError: there is no such file, it is no npz, or it asks for code to be run; the message names it.
    """
    if not path.is_file():
        raise ValueError(f"there is no {path}: {where_from}")
    try:
        with zipfile.ZipFile(path) as archive:
            found = {}
            for member in archive.namelist():
                with archive.open(member) as file:
                    found[member.removesuffix(".npy")] = _read(file)
            return found
    except (ValueError, zipfile.BadZipFile, pickle.UnpicklingError, EOFError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _read(file: IO[bytes]) -> Any:
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, kind = read_header(file)
    if kind.hasobject:
        # latin1: arrays that Python 2 wrote, of which the older files are made.
        array = _OnlyArrays(file, encoding="latin1").load()
        return array.item() if isinstance(array, np.ndarray) and array.shape == () else array
    values = np.frombuffer(file.read(), kind).copy()
    return values.reshape(shape, order="F" if fortran else "C")
