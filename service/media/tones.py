"""High dynamic range to the ordinary one: a table from a clip's 8-bit codes to sRGB's. Knows no containers.

Each channel by itself, and the wider colours are not narrowed: good for networks and for looking, not for grading.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

PQ, HLG = 16, 18  # FFmpeg's and ITU-T H.273's numbers of the transfer curves: SMPTE ST 2084, ARIB STD-B67
WHITE_NITS = 203.0  # what a white sheet has in HDR pictures (ITU-R BT.2408); it is 1 below
HLG_PEAK_NITS, HLG_GAMMA = 1000.0, 1.2  # of the display that HLG is defined for (ITU-R BT.2100)
KNEE = 0.6  # of white: darker tones stay as they are, brighter ones are pressed together below 1


def tone_table(transfer: int) -> NDArray[np.uint8] | None:
    """(256,) uint8 sRGB codes of a transfer curve's codes; None where the curve is an ordinary one."""
    code = np.arange(256) / 255
    if transfer == PQ:
        light = _pq(code)
    elif transfer == HLG:
        light = _hlg(code)
    else:
        return None
    light /= WHITE_NITS
    pressed = KNEE + (1 - KNEE) * (1 - np.exp(-(light - KNEE) / (1 - KNEE)))
    shown = np.where(light <= KNEE, light, pressed)
    coded = np.where(shown <= 0.0031308, 12.92 * shown, 1.055 * shown ** (1 / 2.4) - 0.055)
    table: NDArray[np.uint8] = np.rint(255 * coded).astype(np.uint8)
    return table


def _pq(code: Floats) -> Floats:
    """SMPTE ST 2084: codes 0..1 to candelas a square metre."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    root = code ** (1 / m2)
    nits: Floats = 10_000 * (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1)
    return nits


def _hlg(code: Floats) -> Floats:
    """ARIB STD-B67 on its reference display: codes 0..1 to candelas a square metre."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12)
    nits: Floats = HLG_PEAK_NITS * scene**HLG_GAMMA
    return nits
