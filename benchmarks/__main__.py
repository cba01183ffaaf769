"""`python -m benchmarks`: measure, print, and write it down."""

import argparse
import logging
import sys
from collections.abc import Sequence
from time import perf_counter

import uvloop

from benchmarks import aims, data, page, record, report
from benchmarks.bench import Bench, Scenario, own_server
from benchmarks.measure import FULL, QUICK, Table
from benchmarks.scenarios import edbot, faults, http, memory, network, outage, pooling, sessions

SCENARIOS = (
    Scenario("acquire", pooling.acquire),
    Scenario("loan", pooling.loan),
    Scenario("query", pooling.query),
    Scenario("session", sessions.session),
    Scenario("core", sessions.core),
    Scenario("trips", network.trips),
    Scenario("delay", network.delay),
    Scenario("http", http.http),
    Scenario("spike", faults.spike),
    Scenario("cancel", faults.cancel),
    Scenario("hog", faults.hog, quick=False),
    Scenario("outage", outage.outage, quick=False),
    Scenario("memory", memory.memory, quick=False),
    Scenario("edbot", edbot.edbot, quick=False),
)


def main() -> int:
    """Run what is asked for; 0 when it ran, whatever came out, but 1 when some of it cannot be."""
    options = _options()
    effort = QUICK if options.quick else FULL
    chosen = [scenario for scenario in SCENARIOS if scenario.name in options.only] or [
        scenario for scenario in SCENARIOS if effort.full or scenario.quick
    ]
    logging.disable()  # what the peers have to say when their server dies is in the tables
    started = perf_counter()
    with own_server(max_connections="400", autovacuum="off") as server:
        tables, machine = uvloop.run(_run(chosen, Bench(server, effort)))
    verdicts = aims.judge(tables)
    report.show_rows("Aims", aims.HEAD, [verdict.cells() for verdict in verdicts])
    doubts = aims.doubts(tables)
    for doubt in doubts:
        report.warn(doubt)
    whole = effort.full and not options.only
    written = record.write(tables, verdicts, machine, record.WHOLE if whole else record.PARTIAL)
    report.say(f"\n{perf_counter() - started:.0f} s; the figures are in {written}")
    if whole and not doubts:
        report.say(f"the page is {page.write(tables, verdicts, machine)}")
    return 1 if doubts else 0


def _options() -> argparse.Namespace:
    names = [scenario.name for scenario in SCENARIOS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="pulsepool beside its peers.")
    parser.add_argument("--quick", action="store_true", help="fewer scenarios, sizes and rounds")
    parser.add_argument("--only", action="append", default=[], choices=names, metavar="NAME", help=", ".join(names))
    return parser.parse_args()


async def _run(chosen: Sequence[Scenario], bench: Bench) -> tuple[list[Table], dict[str, str]]:
    machine = record.machine(await data.create(bench.url))
    report.say(", ".join(f"{name} {version}" for name, version in machine.items()) + "\n")
    tables = []
    for scenario in chosen:
        started = perf_counter()
        async for table in scenario.run(bench):
            report.show(table)
            tables.append(table)
        report.say(f"({scenario.name}: {perf_counter() - started:.0f} s)\n")
    return tables, machine


if __name__ == "__main__":
    sys.exit(main())
