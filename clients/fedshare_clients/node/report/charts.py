"""Charts as inline SVG text: a page that holds them needs no network, no script and no plotting library.

>>> chart = Chart("share of customers", "share of defaulters", (0, 1), (0, 1))
>>> chart.line([(0, 0), (0.2, 0.6), (1, 1)], BLUE, "federated")
>>> svg = chart.svg("Gain curve")
"""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING, Final
from zlib import crc32

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "BLUE",
    "GREEN",
    "GREY",
    "ORANGE",
    "PALETTE",
    "RED",
    "Chart",
    "bar_chart",
    "interval_chart",
    "ticks",
]

BLUE: Final = "#1f5a96"
ORANGE: Final = "#d9741a"
GREEN: Final = "#2f7d4f"
GREY: Final = "#8a94a0"
RED: Final = "#b3392f"
PALETTE: Final = (BLUE, ORANGE, GREEN, "#7a4f9e", "#b8860b", "#3a8f9e", RED, GREY)

_WIDTH, _HEIGHT = 520, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 24, 16, 46
_INK, _LINE = "#33404d", "#e4e8ec"

Point = tuple[float, float]
Range = tuple[float, float]


class Chart:
    """Two axes and what is drawn between them. Coordinates are data; what falls outside the ranges is cut off."""

    def __init__(self, x_label: str, y_label: str, x: Range, y: Range, *, percent: str = "") -> None:
        """Set up the axes.

        Args:
            x_label: what runs to the right.
            y_label: what runs up.
            x: first and last value on the horizontal axis.
            y: the same on the vertical one.
            percent: the axes whose numbers are shares to be shown in per cent: ``""``, ``"x"``, ``"y"`` or ``"xy"``.
        """
        self._labels = x_label, y_label
        self._x, self._y = _widened(x), _widened(y)
        self._percent = percent
        self._drawn: list[str] = []
        self._legend: list[tuple[str, str, str]] = []

    def line(self, points: Iterable[Point], colour: str, name: str = "", *, dashes: str = "") -> None:
        """Draw a line through ``points``; a name puts it into the legend."""
        path = " ".join(f"{self._at_x(x):.1f},{self._at_y(y):.1f}" for x, y in points)
        style = f' stroke-dasharray="{dashes}"' if dashes else ""
        self._drawn.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{style}/>'
        )
        self._name(name, colour, dashes)

    def area(self, points: Sequence[Point], colour: str, name: str = "") -> None:
        """Fill between ``points`` and the bottom."""
        floor = self._at_y(self._y[0])
        inner = " ".join(f"{self._at_x(x):.1f},{self._at_y(y):.1f}" for x, y in points)
        ends = f"{self._at_x(points[0][0]):.1f},{floor:.1f}", f"{self._at_x(points[-1][0]):.1f},{floor:.1f}"
        self._drawn.append(
            f'<polygon points="{ends[0]} {inner} {ends[1]}" fill="{colour}" fill-opacity="0.28" '
            f'stroke="{colour}" stroke-width="1.2"/>'
        )
        self._name(name, colour, "")

    def dot(self, point: Point, colour: str, name: str = "", *, radius: float = 3.5) -> None:
        """Draw a dot."""
        x, y = self._at_x(point[0]), self._at_y(point[1])
        self._drawn.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{colour}"/>')
        self._name(name, colour, "dot")

    def spread(self, x: float, low: float, high: float, colour: str) -> None:
        """Draw an interval of the vertical axis at ``x``."""
        at = self._at_x(x)
        self._drawn.append(
            f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{self._at_y(low):.1f}" y2="{self._at_y(high):.1f}" '
            f'stroke="{colour}" stroke-width="1.4"/>'
        )

    def note(self, point: Point, text: str, colour: str = _INK, *, anchor: str = "start") -> None:
        """Write text at a point; ``anchor`` is SVG's: start, middle or end."""
        x, y = self._at_x(point[0]), self._at_y(point[1])
        self._drawn.append(
            f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" font-size="11" text-anchor="{anchor}">{escape(text)}</text>'
        )

    def svg(self, title: str) -> str:
        """Return the chart; ``title`` is what a screen reader says of it."""
        clip = f"c{crc32(''.join([title, *self._drawn]).encode()):x}"
        inside = (
            f'<clipPath id="{clip}"><rect x="{_LEFT}" y="{_TOP - 6}" width="{_WIDTH - _LEFT - _RIGHT}" '
            f'height="{_HEIGHT - _TOP - _BOTTOM + 6}"/></clipPath>'
            f'<g clip-path="url(#{clip})">{"".join(self._drawn)}</g>'
        )
        return _frame(title, _HEIGHT, "".join(self._grid()) + inside + "".join(self._legend_items()))

    def _grid(self) -> list[str]:
        bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
        parts = []
        for value in ticks(*self._y):
            y = self._at_y(value)
            parts.append(f'<line x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="{_LINE}"/>')
            parts.append(_text(_LEFT - 7, y + 4, _number(value, "y" in self._percent), "end"))
        for value in ticks(*self._x):
            x = self._at_x(value)
            parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 4}" stroke="{_INK}"/>')
            parts.append(_text(x, bottom + 17, _number(value, "x" in self._percent), "middle"))
        middle, style = (_TOP + bottom) / 2, f'text-anchor="middle" font-size="12" fill="{_INK}"'
        parts += [
            f'<line x1="{_LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}" stroke="{_INK}"/>',
            _text((_LEFT + right) / 2, _HEIGHT - 9, self._labels[0], "middle", size=12),
            f'<text transform="translate(14 {middle:.0f}) rotate(-90)" {style}>{escape(self._labels[1])}</text>',
        ]
        return parts

    def _legend_items(self) -> list[str]:
        parts = []
        for place, (name, colour, style) in enumerate(self._legend):
            y = _TOP + 8 + 17 * place
            if style == "dot":
                parts.append(f'<circle cx="{_LEFT + 23}" cy="{y}" r="4" fill="{colour}"/>')
            else:
                dashes = f' stroke-dasharray="{style}"' if style else ""
                parts.append(
                    f'<line x1="{_LEFT + 12}" x2="{_LEFT + 34}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="3"{dashes}/>'
                )
            parts.append(_text(_LEFT + 40, y + 4, name, "start", size=12))
        return parts

    def _name(self, name: str, colour: str, style: str) -> None:
        if name:
            self._legend.append((name, colour, style))

    def _at_x(self, value: float) -> float:
        low, high = self._x
        return _LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    def _at_y(self, value: float) -> float:
        low, high = self._y
        return _HEIGHT - _BOTTOM - (value - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)


def bar_chart(title: str, bars: Sequence[tuple[str, float, str]], unit: str, *, decimals: int = 3) -> str:
    """Return horizontal bars, each a name, a value of at least 0 and a colour; ``unit`` explains the values."""
    left, row = 200, 22
    height = _TOP + row * len(bars) + 30
    longest = max((value for _, value, _ in bars), default=0.0) or 1.0
    parts = []
    for place, (name, value, colour) in enumerate(bars):
        y = _TOP + row * place
        width = value / longest * (_WIDTH - left - 60)
        parts.append(_text(left - 8, y + 12, name if len(name) <= 32 else f"{name[:31]}…", "end"))
        parts.append(
            f'<rect x="{left}" y="{y + 2}" width="{width:.1f}" height="14" fill="{colour}" rx="1.5"/>'
        )
        parts.append(_text(left + width + 6, y + 13, f"{value:.{decimals}f}", "start"))
    parts.append(_text(_WIDTH / 2, height - 8, unit, "middle", size=12))
    return _frame(title, height, "".join(parts))


def interval_chart(title: str, rows: Sequence[tuple[str, float, float, float]]) -> str:
    """Return one line per row: a name, a value, and both ends of its interval."""
    left, row = 200, 26
    height = _TOP + row * len(rows) + 40
    low, high = _widened((min(each[2] for each in rows), max(each[3] for each in rows)))

    def at(value: float) -> float:
        return left + (value - low) / (high - low) * (_WIDTH - left - _RIGHT)

    bottom = height - 34
    parts = [
        f'<line x1="{at(value):.1f}" x2="{at(value):.1f}" y1="{_TOP}" y2="{bottom}" stroke="{_LINE}"/>'
        + _text(at(value), bottom + 16, _number(value, False), "middle")
        for value in ticks(low, high)
    ]
    for place, (name, value, first, last) in enumerate(rows):
        y = _TOP + row * place + row / 2
        parts.append(_text(left - 12, y + 4, name, "end", size=12))
        parts.append(
            f'<line x1="{at(first):.1f}" x2="{at(last):.1f}" y1="{y}" y2="{y}" stroke="{BLUE}" stroke-width="2"/>'
            f'<circle cx="{at(value):.1f}" cy="{y}" r="4" fill="{BLUE}"/>'
        )
    return _frame(title, height, "".join(parts))


def ticks(low: float, high: float) -> list[float]:
    """Return some five round numbers from ``low`` to ``high``."""
    raw = (high - low) / 5
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * each for each in (1, 2, 2.5, 5, 10) if power * each >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(step * each, 12) for each in range(first, math.floor(high / step + 1e-9) + 1)]


def _number(value: float, percent: bool) -> str:
    return f"{100 * value:.6g} %" if percent else f"{value:.6g}"


def _widened(bounds: Range) -> Range:
    low, high = bounds
    return (low, high) if high > low else (low, low + 1.0)


def _text(x: float, y: float, text: str, anchor: str, *, size: int = 11) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{_INK}">{escape(text)}</text>'


def _frame(title: str, height: float, content: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" role="img" '
        f'aria-label="{escape(title)}"><title>{escape(title)}</title>{content}</svg>'
    )
