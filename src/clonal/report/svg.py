"""The few elements of SVG that charts are made of."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

LETTER = 6.7  # the width of a letter on average, at the size of `svg text`


def text(x: float, y: float, words: str, css: str = "") -> str:
    return f'<text x="{x:.4g}" y="{y:.4g}"{_class(css)}>{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, css: str = "") -> str:
    return f'<line x1="{x1:.4g}" y1="{y1:.4g}" x2="{x2:.4g}" y2="{y2:.4g}"{_class(css)}/>'


def rect(x: float, y: float, width: float, height: float, css: str = "") -> str:
    return f'<rect x="{x:.4g}" y="{y:.4g}" width="{width:.4g}" height="{height:.4g}"{_class(css)}/>'


def polyline(points: Iterable[tuple[float, float]], css: str = "") -> str:
    return f'<polyline points="{_places(points)}"{_class(css)}/>'


def polygon(points: Iterable[tuple[float, float]], css: str = "") -> str:
    return f'<polygon points="{_places(points)}"{_class(css)}/>'


def image(width: float, height: float, label: str, parts: Iterable[str], css: str = "") -> str:
    """A whole picture, as wide as its place."""
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label)}"{_class(css)}>'
        f"{''.join(parts)}</svg>"
    )


def width_of(words: str) -> float:
    """About as wide as they are drawn."""
    return len(words) * LETTER


def _places(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _class(css: str) -> str:
    return f' class="{css}"' if css else ""
