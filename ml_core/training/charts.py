"""Small charts of a model card: lines as SVG, which Dagster and MLflow show, and lines and bars as text.

Nothing is drawn but points that are given, on axes from the smallest to the largest of them.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 420, 260, 62, 24, 34, 42
_COLOURS = ("#1d6fb8", "#d0661b", "#999999")
_FONT = 'font-family="sans-serif" font-size="11" fill="#444"'
_LEVELS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart: its name and its points, finite and of equal number."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


def chart(title: str, lines: Sequence[Line], *, x: str, y: str) -> str:
    """Return an SVG of some lines over named axes; each line in a colour of its own, named in the legend."""
    xs = [value for line in lines for value in line.x] or [0.0]
    ys = [value for line in lines for value in line.y] or [0.0]
    (left, right), (low, high) = _range(xs), _range(ys)

    def place(at_x: float, at_y: float) -> tuple[float, float]:
        across, up = (at_x - left) / (right - left), (at_y - low) / (high - low)
        return _LEFT + across * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" {_FONT}>',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="16" font-size="13" fill="#111">{escape(title)}</text>',
    ]
    for share in (0.0, 0.5, 1.0):
        tick_x, tick_y = left + share * (right - left), low + share * (high - low)
        at_x, at_y = place(tick_x, tick_y)
        parts += [
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at_y:.1f}" y2="{at_y:.1f}" stroke="#e5e5e5"/>',
            f'<text x="{_LEFT - 5}" y="{at_y + 4:.1f}" text-anchor="end">{_short(tick_y)}</text>',
            f'<text x="{at_x:.1f}" y="{_HEIGHT - _BOTTOM + 14}" text-anchor="middle">{_short(tick_x)}</text>',
        ]
    for number, line in enumerate(lines):
        colour, at_y = _COLOURS[number % len(_COLOURS)], 12 + 13 * number
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in (place(*point) for point in zip(line.x, line.y, strict=True)))
        parts += [
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.6"/>',
            f'<text x="{_WIDTH - _RIGHT}" y="{at_y}" text-anchor="end" fill="{colour}">{escape(line.name)}</text>',
        ]
    parts += [
        f'<text x="{(_LEFT + _WIDTH) / 2}" y="{_HEIGHT - 8}" text-anchor="middle">{escape(x)}</text>',
        f'<text transform="translate(12,{_HEIGHT / 2}) rotate(-90)" text-anchor="middle">{escape(y)}</text>',
        "</svg>",
    ]
    return "".join(parts)


def shown(charts: Mapping[str, str]) -> str:
    """Return charts, SVG by name, as markdown with the pictures inside."""
    return " ".join(
        f"![{name}](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})"
        for name, svg in charts.items()
    )


def sparkline(values: Sequence[float]) -> str:
    """Return a line of text as high as its values, from the smallest to the largest."""
    low, high = _range(values)
    return "".join(_LEVELS[round((value - low) / (high - low) * (len(_LEVELS) - 1))] for value in values)


def bar(value: float, whole: float, *, width: int = 20) -> str:
    """Return a bar of text, `width` characters for a `value` of `whole`."""
    return "█" * round(width * value / whole) if whole > 0 else ""


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.3g}"  # noqa: PLR2004 - thousands


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    return (low, high) if high > low else (low - 0.5, high + 0.5)
