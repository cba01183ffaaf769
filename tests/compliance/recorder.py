"""A pytest plugin beside SQLAlchemy's: gives every engine the plugin under test, and records outcomes and pools."""

import json
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, event
from sqlalchemy.testing import config as suite

from tests.compliance.outcomes import Outcome


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record", type=Path, required=True, help="the file for outcomes and pools")
    parser.addoption("--engine-plugin", help="the SQLAlchemy engine plugin under test")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_Recorder(config.option.record, config.option.engine_plugin))


class _Recorder:
    def __init__(self, file: Path, plugin: str | None) -> None:
        self._file, self._plugin = file, plugin
        self._outcomes: dict[str, Outcome] = {}
        self._pools: set[str] = set()
        event.listen(Engine, "engine_connect", self._note_pool)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionstart(self) -> None:
        """Give the plugin to the engines that tests make themselves, too.

        They make them from the URL of the first engine, and SQLAlchemy has taken `?plugin=` off that.
        """
        if self._plugin:
            suite.db_opts["plugins"] = [self._plugin]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the worst of a test's setup, call and teardown."""
        outcome = Outcome[report.outcome.upper()]
        self._outcomes[report.nodeid] = max(outcome, self._outcomes.get(report.nodeid, outcome))

    def pytest_sessionfinish(self) -> None:
        record = {"outcomes": self._outcomes, "pool": _pool_of(suite.db), "pools": sorted(self._pools)}
        self._file.write_text(json.dumps(record))

    def _note_pool(self, connection: Connection) -> None:
        self._pools.add(_pool_of(connection.engine))


def _pool_of(engine: Engine) -> str:
    pool = type(engine.pool)
    return f"{pool.__module__}.{pool.__qualname__}"
