"""Chooses who draws the triangles: numpy, or a GL context without a window (EGL) through `moderngl`, if there is one.

Both say which triangle each pixel shows and nothing else, so that labels and colours are made by the same code.
"""

from __future__ import annotations

from .egl import EglRasteriser
from .raster import Rasteriser, rasterise


def rasteriser(name: str) -> Rasteriser:
    """name: cpu, egl, or auto (EGL where there is one; even one without a GPU saves an eighth of a picture's time).

    RuntimeError where EGL is asked for and cannot be had.
    """
    if name == "cpu":
        return rasterise
    try:
        return EglRasteriser()
    except RuntimeError:
        if name == "egl":
            raise
        return rasterise
