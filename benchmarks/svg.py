"""Bar charts as SVG, by hand; they follow the reader's light or dark mode."""

import textwrap
from html import escape

from benchmarks.measure import Series, Table
from benchmarks.report import figure, unit

WIDTH, LABEL, VALUE = 720, 200, 110
BAR, GAP = 20, 9
TITLE_LINE, TITLE_CHARACTERS = 19, 76
"""Pixels from line to line, and how many characters of 15 px fit into one, whatever the reader's font."""

DWARFS = 5
"""How many times as long as the next the worst may be; beyond that nobody could see the others."""

STYLE = """
text { font: 13px system-ui, sans-serif; fill: #24292f }
.title { font-size: 15px; font-weight: 600 } .unit, .none { fill: #57606a }
.bar { fill: #a9b4c0 } .ours { fill: #2da27b } .spread { stroke: #24292f; stroke-width: 1.5 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .unit, .none { fill: #9198a1 }
  .bar { fill: #4b5563 } .ours { fill: #1f8f6a } .spread { stroke: #e6edf3 }
}
"""


def bars(table: Table) -> str:
    """One bar for each line: its median, with a stroke from the least to the most of the rounds.

    Where less is better and the worst is more than `DWARFS` times the next, its bar is broken and not to scale.
    """
    broken = _dwarfing(table)
    most = max((each.high for line, each in table.lines.items() if each.values and line != broken), default=0) or 1
    scale = (WIDTH - LABEL - VALUE) / most
    wrapped = textwrap.wrap(table.title, TITLE_CHARACTERS)
    below = 22 + TITLE_LINE * len(wrapped)
    top = below + 15
    height = top + len(table.lines) * (BAR + GAP) + GAP
    rows = "".join(
        _broken(line, series, top + index * (BAR + GAP))
        if line == broken
        else _row(line, series, top + index * (BAR + GAP), scale)
        for index, (line, series) in enumerate(table.lines.items())
    )
    heading = "".join(
        f'<text class="title" x="8" y="{22 + TITLE_LINE * index}">{escape(part)}</text>\n'
        for index, part in enumerate(wrapped)
    )
    title = escape(table.title)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" aria-label="{title}">\n<title>{title}</title>\n<style>{STYLE}</style>\n'
        f'{heading}<text class="unit" x="8" y="{below}">{escape(unit(table))}</text>\n'
        f"{rows}</svg>\n"
    )


def _dwarfing(table: Table) -> str | None:
    """The line whose bar would leave the others none."""
    ordered = sorted((series.median, line) for line, series in table.lines.items() if series.values)
    if table.better == "more" or len(ordered) < 2:
        return None
    (next_to_it, _), (longest, line) = ordered[-2:]
    return line if 0 < DWARFS * next_to_it < longest else None


def _row(line: str, series: Series, y: int, scale: float) -> str:
    middle = y + BAR / 2
    if not series.values:
        return f'{_label(line, y)}<text class="none" x="{LABEL}" y="{middle + 4:g}">no figure</text>\n'
    length, low, high = (value * scale for value in (series.median, series.low, series.high))
    return (
        f"{_label(line, y)}{_bar(line, y, LABEL, max(length, 1))}"
        f'<line class="spread" x1="{LABEL + low:.1f}" x2="{LABEL + high:.1f}" y1="{middle:g}" y2="{middle:g}"/>'
        f'<text x="{LABEL + max(length, high) + 8:.1f}" y="{middle + 4:g}">{figure(series.median)}</text>\n'
    )


def _broken(line: str, series: Series, y: int) -> str:
    whole, gap, stump = WIDTH - LABEL - VALUE - 50, 5, 25
    return (
        f"{_label(line, y)}{_bar(line, y, LABEL, whole - gap - stump)}{_bar(line, y, LABEL + whole - stump, stump)}"
        f'<text x="{LABEL + whole + 8}" y="{y + BAR / 2 + 4:g}">{figure(series.median)}, not to scale</text>\n'
    )


def _label(line: str, y: int) -> str:
    return f'<text x="{LABEL - 8}" y="{y + BAR / 2 + 4:g}" text-anchor="end">{escape(line)}</text>'


def _bar(line: str, y: int, x: float, width: float) -> str:
    ours = " ours" if line.startswith("pulsepool") else ""
    return f'<rect class="bar{ours}" x="{x:g}" y="{y}" width="{width:.1f}" height="{BAR}" rx="2"/>'
