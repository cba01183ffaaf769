import socket
import ssl

import pytest

from pulsepool import Dsn
from pulsepool.diagnosis import REFUSALS, unavailable

DSN = Dsn.parse("postgresql://ed:planted@db1:6432/edbot")


class ServerSaid(Exception):
    def __init__(self, sqlstate: str) -> None:
        super().__init__("whatever the server said")
        self.sqlstate = sqlstate


@pytest.mark.parametrize("sqlstate", REFUSALS)
def test_a_refusal_of_the_server_names_server_code_and_remedy(sqlstate):
    failure = unavailable(ServerSaid(sqlstate), DSN, connect_timeout=1)
    assert failure.sqlstate == sqlstate
    assert failure.message.startswith("the server at db1:6432 ")
    assert failure.message.endswith(f"({sqlstate})")
    assert failure.hint


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (TimeoutError(), "the server at db1:6432 did not answer within 1.5 s"),
        (socket.gaierror(-2, "Name or service not known"), "the host name in db1:6432 cannot be resolved"),
        (ConnectionRefusedError(111, "Connect call failed"), "nothing listens at db1:6432"),
        (FileNotFoundError(2, "No such file"), "nothing listens at db1:6432"),
        (ssl.SSLCertVerificationError("certificate verify failed"), "no TLS with the server at db1:6432"),
        (ServerSaid("XX000"), "no connection to db1:6432 (whatever the server said)"),
        (OSError(), "no connection to db1:6432 (OSError)"),
    ],
)
def test_a_failure_on_the_way_names_the_server_and_what_happened(error, says):
    failure = unavailable(error, DSN, connect_timeout=1.5)
    assert failure.message.startswith(says)
    assert failure.hint
    assert "planted" not in str(failure)
