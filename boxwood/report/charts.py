"""Charts as SVG. Their colours come from the style of the page, so that they suit light and dark themes."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup, escape

__all__ = ["calibration", "curves", "histogram", "path"]

WIDTH, HEIGHT = 420, 280
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 12, 40
"""Margins of the plot, in units of the SVG."""

Points = Sequence[tuple[float, float]]


def curves(series: Sequence[tuple[str, Points]], x: str, y: str) -> Markup:
    """Lines over the unit square, each with its name; the n-th has the class ``line-n``."""
    lines = "".join(
        f'<path class="line line-{n}" d="{path(points)}"><title>{escape(name)}</title></path>'
        for n, (name, points) in enumerate(series)
    )
    return _plot(_unit_axes(x, y) + lines, f"{y} over {x}")


def calibration(bins: Sequence[tuple[float, float, float, int]]) -> Markup:
    """The fraction of true positives in each bin of scores; a bin is its lower end, upper end, fraction and count.

    A column that ends below the diagonal means that these scores are too high.
    """
    columns = []
    for low, high, share, count in bins:
        if count:
            x, y = _place(low, share)
            width = _place(high, 0)[0] - x - 2
            columns.append(
                f'<rect class="column" x="{x + 1:.1f}" y="{y:.1f}" width="{width:.1f}" height="{_place(0, 0)[1] - y:.1f}">'
                f"<title>{count:,} detections with a score of {low:.1f} to {high:.1f}: {share:.0%} true positives</title></rect>"
            )
    diagonal = f'<path class="hint" d="{path([(0, 0), (1, 1)])}"/>'
    return _plot(
        _unit_axes("score", "fraction of true positives") + "".join(columns) + diagonal, "fraction of true positives by score"
    )


def histogram(counts: Sequence[int], labels: Sequence[str], x: str, marks: Sequence[tuple[float, str]] = ()) -> Markup:
    """Columns with a label below each; ``marks`` are vertical lines: position in columns from the left, and meaning."""
    assert len(counts) == len(labels)
    highest = max([*counts, 1])
    step = (WIDTH - LEFT - RIGHT) / max(len(counts), 1)
    bottom, plot_height = HEIGHT - BOTTOM, HEIGHT - BOTTOM - TOP
    parts = [f'<text class="tick" x="{LEFT - 6}" y="{TOP + 9}" text-anchor="end">{highest:,}</text>']
    for n, (count, label) in enumerate(zip(counts, labels, strict=True)):
        column_height = plot_height * count / highest
        x1 = LEFT + n * step + 1
        parts.append(
            f'<rect class="column" x="{x1:.1f}" y="{bottom - column_height:.1f}" width="{step - 2:.1f}" '
            f'height="{column_height:.1f}"><title>{escape(label)}: {count:,}</title></rect>'
        )
        if n % (1 + len(counts) // 13) == 0:
            parts.append(f'<text class="tick" x="{LEFT + (n + 0.5) * step:.1f}" y="{bottom + 14}">{escape(label)}</text>')
    for position, meaning in marks:
        at = LEFT + min(max(position, 0), len(counts)) * step
        parts.append(
            f'<path class="mark" d="M{at:.1f} {TOP}V{bottom}"/>'
            f'<path class="grab" d="M{at:.1f} {TOP}V{bottom}"><title>{escape(meaning)}</title></path>'
        )
    parts.append(f'<path class="axis" d="M{LEFT} {bottom}H{WIDTH - RIGHT}"/>{_name(x)}')
    return _plot("".join(parts), x)


def path(points: Points) -> str:
    """Points of the unit square as the path data of a line.

    >>> path([(0, 0), (1, 1)])
    'M44.0 240.0L408.0 12.0'
    """
    placed = [_place(x, y) for x, y in points]
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in placed) if placed else ""


def _place(x: float, y: float) -> tuple[float, float]:
    return LEFT + x * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - y * (HEIGHT - TOP - BOTTOM)


def _unit_axes(x: str, y: str) -> str:
    parts = []
    for tick in (0, 0.25, 0.5, 0.75, 1):
        across, up = _place(tick, tick)
        parts.append(
            f'<path class="grid" d="M{LEFT} {up:.1f}H{WIDTH - RIGHT}M{across:.1f} {TOP}V{HEIGHT - BOTTOM}"/>'
            f'<text class="tick" x="{LEFT - 6}" y="{up + 4:.1f}" text-anchor="end">{tick:g}</text>'
            f'<text class="tick" x="{across:.1f}" y="{HEIGHT - BOTTOM + 14}">{tick:g}</text>'
        )
    middle = (TOP + HEIGHT - BOTTOM) / 2
    return f'{"".join(parts)}{_name(x)}<text class="name" transform="translate(11 {middle}) rotate(-90)">{escape(y)}</text>'


def _name(x: str) -> str:
    return f'<text class="name" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}">{escape(x)}</text>'


def _plot(content: str, title: str) -> Markup:
    return Markup(f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{content}</svg>')
