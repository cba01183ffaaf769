"""Bar charts as SVG, by hand; they follow the reader's light or dark mode."""

from html import escape

from benchmarks.measure import Series, Table
from benchmarks.report import figure

WIDTH, LABEL, VALUE = 720, 170, 110
BAR, GAP, TOP = 20, 9, 56

STYLE = """
text { font: 13px system-ui, sans-serif; fill: #24292f }
.title { font-size: 15px; font-weight: 600 } .unit, .none { fill: #57606a }
.bar { fill: #a9b4c0 } .ours { fill: #0a7d5c } .spread { stroke: #24292f; stroke-width: 1.5 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .unit, .none { fill: #9198a1 }
  .bar { fill: #4b5563 } .ours { fill: #2fbf8f } .spread { stroke: #e6edf3 }
}
"""


def bars(table: Table) -> str:
    """One bar for each line: its median, with a stroke from the least to the most of the rounds."""
    most = max((series.high for series in table.lines.values() if series.values), default=0) or 1
    scale = (WIDTH - LABEL - VALUE) / most
    height = TOP + len(table.lines) * (BAR + GAP) + GAP
    rows = "".join(
        _row(line, series, TOP + index * (BAR + GAP), scale) for index, (line, series) in enumerate(table.lines.items())
    )
    title = escape(table.title)
    unit = f"{table.unit}, {table.better} is better".removeprefix(", ")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" aria-label="{title}">\n<title>{title}</title>\n<style>{STYLE}</style>\n'
        f'<text class="title" x="8" y="22">{title}</text>\n<text class="unit" x="8" y="42">{escape(unit)}</text>\n'
        f"{rows}</svg>\n"
    )


def _row(line: str, series: Series, y: int, scale: float) -> str:
    middle = y + BAR / 2
    label = f'<text x="{LABEL - 8}" y="{middle + 4:g}" text-anchor="end">{escape(line)}</text>'
    if not series.values:
        return f'{label}<text class="none" x="{LABEL}" y="{middle + 4:g}">no figure</text>\n'
    ours = " ours" if line.startswith("pulsepool") else ""
    length, low, high = (value * scale for value in (series.median, series.low, series.high))
    return (
        f'{label}<rect class="bar{ours}" x="{LABEL}" y="{y}" width="{max(length, 1):.1f}" height="{BAR}" rx="2"/>'
        f'<line class="spread" x1="{LABEL + low:.1f}" x2="{LABEL + high:.1f}" y1="{middle:g}" y2="{middle:g}"/>'
        f'<text x="{LABEL + max(length, high) + 8:.1f}" y="{middle + 4:g}">{figure(series.median)}</text>\n'
    )
