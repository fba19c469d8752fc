"""Colours, each for light and for dark paper."""

from __future__ import annotations

import colorsys
from typing import NamedTuple


class Colour(NamedTuple):
    light: str
    dark: str


RED = Colour("#d1495b", "#f2808e")
GREEN = Colour("#2a9134", "#5fc66b")
BLUE = Colour("#30638e", "#6fa8d6")
GOLD = Colour("#b07d00", "#e5b94e")
BROWN = Colour("#7d4a1e", "#c79463")
VIOLET = Colour("#7a4fa3", "#b793e2")
TEAL = Colour("#0f7f83", "#4fc4c8")
PINK = Colour("#b0417f", "#e58cc0")
GREY = Colour("#6b7280", "#9aa3b0")
PALETTE = (RED, GOLD, BLUE, BROWN, GREEN, VIOLET, TEAL, PINK, GREY)


def ramp(count: int) -> list[Colour]:
    """Colours in an order that is seen: from blue by violet and red to amber."""
    hues = [(0.58 + 0.52 * index / max(1, count - 1)) % 1.0 for index in range(count)]
    return [Colour(_hex(hue, 0.40, 0.62), _hex(hue, 0.70, 0.75)) for hue in hues]


def _hex(hue: float, lightness: float, saturation: float) -> str:
    return "#" + "".join(
        f"{round(255 * part):02x}" for part in colorsys.hls_to_rgb(hue, lightness, saturation)
    )
