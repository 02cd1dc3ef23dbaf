"""The rasteriser on a GPU: draws triangle numbers through `moderngl`, in a context of EGL, which wants no display.

Same promise as raster.rasterise; a few pixels on edges fall to the other side, since GL rounds places to a 256th pixel.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .raster import NEAREST_M, Array, Indices

VERTEX = """
#version 330
in vec3 place;  // x, y in pixels, depth
uniform vec2 size;
void main() {
    // Inverse depth is what is linear on the screen: nearer is larger, brought into -1 (near) to 1 (far).
    gl_Position = vec4(place.xy / size * 2.0 - 1.0, 1.0 - 2.0 * NEAREST / place.z, 1.0);
}
""".replace("NEAREST", str(NEAREST_M))
FRAGMENT = """
#version 330
out int number;
void main() { number = gl_PrimitiveID; }
"""


class EglRasteriser:
    """Called as raster.rasterise is. RuntimeError where there is no EGL."""

    def __init__(self) -> None:
        try:
            moderngl: Any = importlib.import_module("moderngl")
            self._context: Any = moderngl.create_context(standalone=True, backend="egl")
        except Exception as error:  # a missing package, library, driver or device each raise their own
            raise RuntimeError(f"no EGL through moderngl: {error!r}") from error
        self._moderngl = moderngl
        self._program: Any = self._context.program(vertex_shader=VERTEX, fragment_shader=FRAGMENT)
        self._frames: dict[tuple[int, int], Any] = {}

    def __call__(self, points: Array, triangles: Indices, size: tuple[int, int]) -> NDArray[np.int32]:
        near = points[triangles, 2].min(1) > NEAREST_M if len(triangles) else np.zeros(0, bool)
        kept = np.flatnonzero(near)
        frame = self._frame(size)
        frame.use()
        frame.clear(depth=1.0)
        frame.color_attachments[0].write(np.full(size[0] * size[1], -1, np.int32).tobytes())
        if len(kept):
            buffer = self._context.buffer(np.ascontiguousarray(points, np.float32).tobytes())
            order = self._context.buffer(triangles[kept].astype(np.int32).tobytes())
            self._program["size"].value = size
            self._context.enable(self._moderngl.DEPTH_TEST)
            array = self._context.vertex_array(self._program, [(buffer, "3f", "place")], order)
            array.render(self._moderngl.TRIANGLES)
            for each in (array, order, buffer):
                each.release()
        out = np.frombuffer(frame.read(components=1, dtype="i4"), np.int32).reshape(size[1], size[0]).copy()
        out[out >= 0] = kept[out[out >= 0]]
        return out

    def _frame(self, size: tuple[int, int]) -> Any:
        if size not in self._frames:
            numbers = self._context.texture(size, 1, dtype="i4")
            depth = self._context.depth_renderbuffer(size)
            self._frames[size] = self._context.framebuffer([numbers], depth)
        return self._frames[size]
