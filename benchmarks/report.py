"""The table in the terminal, while it runs."""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from benchmarks.measure import Series, Table

console = Console(highlight=False, soft_wrap=True)


def figure(value: float) -> str:
    """Three digits that tell: 74,012 · 21.7 · 0.31."""
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def counted(number: int, noun: str) -> str:
    """1 task, 1,000 tasks."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def unit(table: Table) -> str:
    """What the figures are in, and which are the better ones."""
    return f"{table.unit}, {table.better} is better".removeprefix(", ")


def spread(series: Series) -> str:
    """The least and the most of the rounds."""
    return f"{figure(series.low)} – {figure(series.high)}"  # noqa: RUF001 - from to


def rows(table: Table) -> list[tuple[str, str, str, str]]:
    """Each line that has figures: who, median, spread, ratio."""
    return [
        (line, figure(series.median), spread(series), ratio(table, line))
        for line, series in table.lines.items()
        if series.values
    ]


def ratio(table: Table, line: str) -> str:
    """How many times better than the baseline."""
    times = table.ratio(line)
    return "" if times is None else f"{figure(times)}×"  # noqa: RUF001 - times


def show(table: Table) -> None:
    """Print one scenario's result."""
    grid = Grid(box=None, padding=(0, 2, 0, 0))
    grid.add_column(escape(f"[{table.name}]"), min_width=22, no_wrap=True)
    grid.add_column(table.unit, justify="right", min_width=10)
    grid.add_column("least – most", justify="right", min_width=18)  # noqa: RUF001 - from to
    grid.add_column(f"beside {table.baseline}", justify="right")
    for row in rows(table):
        grid.add_row(*row)
    console.print(f"[bold]{table.title}[/] ({table.better} is better)")
    console.print(grid)
    for line, series in table.lines.items():
        if series.note:
            console.print(f"{line}: {series.note}", markup=False)
    console.print()


def say(text: str) -> None:
    """Print one line."""
    console.print(text)


def warn(text: str) -> None:
    """Print one line that nobody overlooks."""
    console.print(f"\n[bold red]NOT TO BE BELIEVED:[/] {escape(text)}")


def show_rows(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print any table."""
    grid = Grid(*head, title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for row in rows:
        grid.add_row(*row)
    console.print(grid)
