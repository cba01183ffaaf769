"""Every log line is one JSON object, whatever is in it."""

import json
import logging
import logging.config
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.config import LOGGING_CONFIG

from pulsepool import DatabaseUnavailable
from src.observability.logs import JsonLines, setup_logging

NAMES = ("", "uvicorn", "uvicorn.error", "uvicorn.access", "httpx2", "httpcore2")


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in NAMES]
    before = [(logger, logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    logging.getLogger().handlers = []  # out of the way of `force`, which closes the handlers that it finds
    yield
    for logger, handlers, level, propagate in before:
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


def record(message: Any, *arguments: Any, error: BaseException | None = None) -> logging.LogRecord:
    information = (type(error), error, error.__traceback__) if error else None
    return logging.LogRecord("src.x", logging.ERROR, __file__, 1, message, arguments, information)


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, str]]:
    out, err = capsys.readouterr()
    assert out == ""
    return [json.loads(line) for line in err.splitlines()]


def test_a_line_has_exactly_the_four_keys_and_a_utc_time_with_microseconds(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging()
    logging.getLogger("src.observability.health").info("Health check complete: %s (score: %.3f)", "healthy", 1)
    (line,) = lines(capsys)
    assert list(line) == ["timestamp", "level", "logger", "message"]
    assert line["level"] == "INFO"
    assert line["logger"] == "src.observability.health"
    assert line["message"] == "Health check complete: healthy (score: 1.000)"
    then = datetime.fromisoformat(line["timestamp"])
    assert then.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - then) < timedelta(minutes=1)
    assert len(line["timestamp"]) == len("2025-08-25T17:15:29.125320+00:00")


def test_a_time_on_the_full_second_keeps_its_microseconds() -> None:
    full = record("x")
    full.created = 1_756_142_129.0
    assert json.loads(JsonLines().format(full))["timestamp"] == "2025-08-25T17:15:29.000000+00:00"


@given(st.text())
def test_any_text_is_one_line_that_reads_back_the_same(message: str) -> None:
    line = JsonLines().format(record("%s", message))
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line)["message"] == message


def test_newlines_quotes_and_lone_surrogates_stay_in_their_line() -> None:
    message = 'a\nb\r\u2028"c"\\ \udc80 \0 München 🚑'
    line = JsonLines().format(record(message))
    assert len(line.splitlines()) == 1
    assert json.loads(line)["message"] == message


def test_arguments_that_do_not_fit_cost_neither_the_line_nor_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging()
    logging.getLogger("src.x").handle(record("%d of %d", "hunter2"))
    (line,) = lines(capsys)
    assert line["message"] == "%d of %d (TypeError while its arguments were put in)"


def failed(text: str) -> BaseException:
    failure = DatabaseUnavailable("nothing listens at db:5432", hint="start it")
    failure.__cause__ = ValueError(f"could not read {text}")
    with pytest.raises(DatabaseUnavailable) as caught:
        raise failure
    return caught.value


def test_an_exception_is_told_in_one_line_with_its_place_and_without_what_came_before() -> None:
    told = json.loads(JsonLines().format(record("x", error=failed("hunter2"))))["exception"]
    assert told.startswith("DatabaseUnavailable: nothing listens at db:5432 (in failed, ")
    assert "test_logs.py:" in told
    assert "hunter2" not in told
    assert "start it" not in told


def test_an_exception_is_told_whole_when_debugging(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("DEBUG")
    logging.getLogger("src.x").error("x", exc_info=failed("the address"))
    (line,) = lines(capsys)
    assert list(line) == ["timestamp", "level", "logger", "message", "exception"]
    assert "Traceback (most recent call last)" in line["exception"]
    assert "could not read the address" in line["exception"]


def test_logging_an_exception_where_there_is_none_is_an_ordinary_line(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging()
    logging.getLogger("src.x").error("x", exc_info=sys.exc_info())
    (line,) = lines(capsys)
    assert "exception" not in line


def test_uvicorn_logs_the_same_way_and_once(capsys: pytest.CaptureFixture[str]) -> None:
    logging.config.dictConfig(LOGGING_CONFIG)
    setup_logging()
    setup_logging()
    logging.getLogger("uvicorn.error").info("Started server process [%d]", 7)
    arguments = ("127.0.0.1:1", "GET", "/health", "1.1", 200)
    logging.getLogger("uvicorn.access").info('%s - "%s %s HTTP/%s" %d', *arguments)
    assert [(line["logger"], line["message"]) for line in lines(capsys)] == [
        ("uvicorn.error", "Started server process [7]"),
        ("uvicorn.access", '127.0.0.1:1 - "GET /health HTTP/1.1" 200'),
    ]


def test_what_is_below_the_level_is_not_logged(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("WARNING")
    logging.getLogger("src.x").info("quiet")
    logging.getLogger("src.x").warning("loud")
    assert [line["message"] for line in lines(capsys)] == ["loud"]


def test_the_addresses_of_requests_are_not_logged(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("DEBUG")
    logging.getLogger("httpx2").info("HTTP Request: GET http://llm/?key=hunter2")
    logging.getLogger("httpcore2.connection").debug("connect_tcp.started host='llm'")
    assert lines(capsys) == []


def test_a_level_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="LOUD"):
        setup_logging("LOUD")
