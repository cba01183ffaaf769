"""A health report as a table for people."""

from pydantic import BaseModel, Field
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from src.observability.checks import HealthStatus

STYLES = {HealthStatus.HEALTHY: "green", HealthStatus.DEGRADED: "yellow", HealthStatus.UNHEALTHY: "bold red"}


class Component(BaseModel):
    """One row: a component, how it is, and its answer's time in milliseconds."""

    component: str
    status: HealthStatus
    response_time_ms: float = Field(ge=0, allow_inf_nan=False)
    message: str


class Report(BaseModel):
    """The body of `/api/v1/health`, as far as the table shows it. Pydantic's `ValidationError` for anything else."""

    status: HealthStatus
    health_score: float = Field(ge=0, le=1)
    components: list[Component] = Field(min_length=1)

    @classmethod
    def failed(cls, component: str, message: str, ms: float = 0.0) -> "Report":
        """The report when there is none to be had; `message` tells why."""
        status = HealthStatus.UNHEALTHY
        row = Component(component=component, status=status, response_time_ms=ms, message=message)
        return cls(status=status, health_score=0.0, components=[row])


def show(report: Report, console: Console) -> None:
    """Print a row for each component and then, on a line of its own, the whole: `healthy (score: 1.000)`."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("component", no_wrap=True)
    table.add_column("status", no_wrap=True)
    table.add_column("ms", no_wrap=True, justify="right")
    table.add_column("message", overflow="fold")
    for row in report.components:
        table.add_row(
            _plain(row.component),
            Text(row.status, STYLES[row.status]),
            f"{row.response_time_ms:.1f}",
            _plain(row.message),
        )
    console.print(table)
    console.print(Text(f"{report.status} (score: {report.health_score:.3f})", STYLES[report.status]))


def _plain(text: str) -> Text:
    """What came over the network, without what a terminal would obey."""
    return Text("".join(character if character.isprintable() else " " for character in text))
