"""The service through a bad day: wrong addresses, a taken port, a database that dies, freezes and comes back."""

import json
import socket
import time

import pytest

from pulsepool import Dsn
from tests.planted import PLANTED

QUESTION = {"query": "what is the ED STEMI protocol"}


@pytest.mark.parametrize(
    ("change", "says", "setting"),
    [
        ({"password": "wrong-pl4nted"}, "refused the password of user 'postgres'", "DB_PASSWORD"),
        ({"host": "no-such-host.invalid"}, "the host name of no-such-host.invalid", "DATABASE_URL"),
        ({"port": 1}, "nothing listens at 127.0.0.1:1", "DB_PORT"),
        ({"database": "missing"}, "has no database 'missing'", "DB_NAME"),
    ],
)
def test_what_is_wrong_at_start_is_said_with_its_setting_and_an_exit_code(edbotv8, service, change, says, setting):
    url = Dsn.parse(edbotv8).replace(**change).render(hide_password=False)
    started = service(url)
    assert started.ends() == 1
    assert "DatabaseUnavailable: the server at" in started.said or says in started.said
    assert says in started.said
    assert setting in started.said
    assert "Traceback" not in started.said
    assert "pl4nted" not in started.said


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("mysql://ed:pl4nted@db/edbot", "mysql"),
        ("postgresql://ed:pl4nted@db/edbot?sslmode=always", "sslmode"),
        ("postgresql://ed:pl4nted@db:99999/edbot", "port"),
    ],
)
def test_a_bad_address_is_one_clear_line(service, url, says):
    started = service(url)
    assert started.ends() == 1
    assert "ConfigurationError" in started.said
    assert says in started.said
    assert "Traceback" not in started.said
    assert "pl4nted" not in started.said


def test_a_bad_setting_is_one_clear_line_and_a_traceback_only_in_debug(service):
    plain, debug = service(None, DB_MAX_SIZE="0"), service(None, "--debug", DB_MAX_SIZE="0")
    assert plain.ends() == 1
    assert "max_size='0' should be greater than or equal to 1" in plain.said
    assert "DB_MAX_SIZE" in plain.said
    assert "Traceback" not in plain.said
    assert debug.ends() == 1
    assert "Traceback" in debug.said


@pytest.mark.parametrize("port", ["0", "70000", "-1", "x"])
def test_what_is_no_port_is_said_plainly(service, port):
    started = service(None, "--port", port)
    assert started.ends() == 2
    assert "is no port; 1 to 65535" in started.said or "expected one argument" in started.said
    assert "Traceback" not in started.said


def test_a_taken_port_is_named_with_one_that_may_be_free(service):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        started = service(None, "--port", str(port))
        assert started.ends() == 1
    assert f"cannot listen on 127.0.0.1:{port}" in started.said
    assert f"make run PORT={port + 1}" in started.said
    assert "Traceback" not in started.said


def test_a_database_that_dies_is_503_within_its_limits_and_everything_works_when_it_is_back(mortal, service, http):
    edbot = service()
    edbot.wait_until_it_listens()
    assert http.post(f"{edbot.base}/api/v1/query", json=QUESTION).json()["found"]

    mortal.kill()
    for path in ("/api/v1/query", "/api/v1/sync/query"):
        started = time.monotonic()
        refused = http.post(f"{edbot.base}{path}", json=QUESTION)
        assert refused.status_code == 503
        assert refused.headers["retry-after"]
        assert time.monotonic() - started < 3
    health = http.get(f"{edbot.base}/api/v1/health")
    assert health.status_code == 503
    assert health.json()["status"] == "unhealthy"
    assert health.json()["health_score"] == 0
    assert health.json()["components"][0]["message"].startswith("Database connection failed")

    mortal.start()
    for path in ("/api/v1/query", "/api/v1/sync/query"):
        assert http.post(f"{edbot.base}{path}", json=QUESTION).json()["found"]
    assert http.get(f"{edbot.base}/health").json() == {"status": "healthy", "health_score": 1.0}


def test_a_database_that_freezes_is_503_within_its_limits_and_everything_works_when_it_thaws(
    mortal, service, http, frozen
):
    edbot = service(None, DB_STATEMENT_TIMEOUT="0.5", DB_CONNECT_TIMEOUT="0.5")
    edbot.wait_until_it_listens()
    with frozen(mortal):
        started = time.monotonic()
        assert http.post(f"{edbot.base}/api/v1/query", json=QUESTION).status_code == 503
        assert time.monotonic() - started < 5
        started = time.monotonic()
        assert http.get(f"{edbot.base}/health").json()["status"] == "unhealthy"
        assert time.monotonic() - started < 3
    thawed = time.monotonic()
    while (answer := http.post(f"{edbot.base}/api/v1/query", json=QUESTION)).status_code == 503:
        assert time.monotonic() - thawed < 1, "the pool has not tried the server again"
        time.sleep(0.02)
    assert answer.json()["found"]
    assert http.get(f"{edbot.base}/health").json()["status"] == "healthy"


def test_a_planted_password_appears_in_nothing_that_the_service_says(mortal, service, http):
    edbot = service(None, LOG_LEVEL="DEBUG", REDIS_URL="redis://:pl4nted-redis@127.0.0.1:1/0")
    edbot.wait_until_it_listens()
    seen = []

    def ask() -> None:
        pages = ("/", "/health", "/api/v1/health", "/openapi.json", "/api/v1/documents", "/nothing")
        seen.extend(http.get(f"{edbot.base}{path}") for path in pages)
        bodies = (QUESTION, {"query": "\0"}, {"query": "x" * 3_000})
        for path in ("/api/v1/query", "/api/v1/sync/query"):
            seen.extend(http.post(f"{edbot.base}{path}", json=body) for body in bodies)

    ask()
    mortal.kill()
    ask()
    mortal.start()
    ask()
    edbot.stop()
    everything = edbot.said + "".join(str(answer.headers) + answer.text for answer in seen)
    assert len(everything) > 50_000, "little was said, so little was looked through"
    for secret in ("pl4nted", json.dumps(PLANTED)[1:-1], Dsn.parse(mortal.url()).sqlalchemy_url("asyncpg").password):
        assert secret not in everything
