import socket
import ssl

import pytest

from pulsepool import DatabaseSettings, Dsn
from pulsepool.diagnosis import REFUSALS, unavailable

DSN = Dsn.parse("postgresql://ed:planted@db1:6432/edbot")
SETTINGS = DatabaseSettings.explicit()


class ServerSaid(Exception):
    def __init__(self, text: str, sqlstate: str | None = None, pgcode: str | None = None) -> None:
        super().__init__(text)
        self.sqlstate = sqlstate
        self.pgcode = pgcode


@pytest.mark.parametrize("sqlstate", REFUSALS)
def test_a_refusal_of_the_server_names_server_code_and_remedy(sqlstate):
    for error in (ServerSaid("whatever", sqlstate=sqlstate), ServerSaid("whatever", pgcode=sqlstate)):
        failure = unavailable(error, DSN, SETTINGS, 1)
        assert failure.sqlstate == sqlstate
        assert failure.message.startswith("the server at db1:6432 ")
        assert failure.message.endswith(f"({sqlstate})")
        assert failure.hint
        assert "{" not in str(failure)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (TimeoutError(), "the server at db1:6432 did not answer within 1.5 s"),
        (socket.gaierror(-2, "Name or service not known"), "the host name of db1:6432 cannot be resolved"),
        (ConnectionRefusedError(111, "Connect call failed"), "nothing listens at db1:6432"),
        (FileNotFoundError(2, "No such file"), "a file that the address of db1:6432 names is not there"),
        (ssl.SSLError(1, "wrong version"), "no TLS with the server at db1:6432 ("),
        (ConnectionError("the server rejected SSL upgrade"), "no TLS with the server at db1:6432 (the server rejected"),
        (ServerSaid("one line\nanother"), "no connection to db1:6432 (one line)"),
        (OSError(), "no connection to db1:6432 (OSError)"),
    ],
)
def test_a_failure_on_the_way_names_the_server_and_what_happened(error, says):
    failure = unavailable(error, DSN, SETTINGS, 1.5)
    assert failure.message.startswith(says)
    assert failure.sqlstate is None
    assert failure.hint
    assert "planted" not in str(failure)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('FATAL:  password authentication failed for user "ed"', "(28P01)"),
        ("fe_sendauth: no password supplied", "(28P01)"),
        ('FATAL:  no pg_hba.conf entry for host "::1"', "(28000)"),
        ('FATAL:  role "ed" does not exist', "(28000)"),
        ('FATAL:  database "edbot" does not exist', "(3D000)"),
        ("FATAL:  sorry, too many clients already", "(53300)"),
        ("FATAL:  the database system is starting up", "(57P03)"),
        ("connection to server at db1, port 1 failed: Connection refused", "nothing listens"),
        ('could not translate host name "db1" to address', "cannot be resolved"),
        ("failed to resolve host 'db1': [Errno -2] Name or service not known", "cannot be resolved"),
        ("connection timeout expired", "did not answer within"),
        ("server does not support SSL, but SSL was required", "no TLS"),
    ],
)
def test_what_libpq_says_as_text_means_the_same(text, says):
    assert says in unavailable(ServerSaid(f"connection failed: {text}"), DSN, SETTINGS, 1.5).message


def test_the_hint_names_the_place_where_the_address_came_from(monkeypatch):
    monkeypatch.setenv("AUDIT_URL", "postgres://h/d")
    refused = ServerSaid("no", sqlstate="28P01")
    hints = [
        unavailable(refused, DSN, settings, 1).hint
        for settings in (SETTINGS, DatabaseSettings(_env_file=None), DatabaseSettings.from_env("AUDIT_", None))
    ]
    assert hints == [
        "check the password in the address",
        "check the password in DATABASE_URL, or DB_PASSWORD",
        "check the password in AUDIT_URL, or AUDIT_PASSWORD",
    ]


def test_a_user_that_the_address_does_not_name_is_not_called_none():
    failure = unavailable(ServerSaid("no", sqlstate="28P01"), Dsn.parse("postgres://db1/edbot"), SETTINGS, 1)
    assert failure.message == "the server at db1 refused the password of this user (28P01)"


def test_a_socket_that_is_not_there_is_a_server_that_does_not_listen():
    failure = unavailable(FileNotFoundError(2, "No such file"), Dsn.parse("host=/run/pg"), SETTINGS, 1)
    assert failure.message == "nothing listens at /run/pg"
