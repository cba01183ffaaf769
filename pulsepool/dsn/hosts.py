"""The servers of an address: libpq's two lists, of hosts and of ports, made into one.

No host is ever quoted in an error: in an address mistyped, it may be a piece of the password.
"""

import ipaddress
import re
from dataclasses import dataclass

from pulsepool.errors import ConfigurationError

_MAX_PORT = 65535
_BRACKETED = re.compile(r"\[([^\[\]]*)\](?::(.*))?", re.DOTALL)
_NO_NAME = re.compile(r"[\s\x00-\x1f\x7f/?#@\[\]:]")  # what no host name has, and a password may
_DIGITS = re.compile(r"-?[0-9]{1,10}")


@dataclass(frozen=True, slots=True)
class Host:
    """One server. `host`: a name, an IP address or a socket's directory; "" is the driver's default.

    `port`: 1 to 65535; None leaves it to the driver (`PGPORT`, else 5432).
    """

    host: str
    port: int | None = None

    def __str__(self) -> str:
        name = f"[{self.host}]" if ":" in self.host and not self.is_socket else self.host or "the default host"
        return name if self.port is None else f"{name}:{self.port}"

    @property
    def is_socket(self) -> bool:
        """Whether this is a Unix-domain socket: a directory, or an abstract one (`@name`)."""
        return self.host.startswith(("/", "@"))


def split_ports(hosts: str) -> tuple[str, str]:
    """Part `h1:5432,[::1]:5433` into libpq's two lists, `h1,::1` and `5432,5433`; the second is "" without any port."""
    parted = [_split_port(item) for item in hosts.split(",")]
    ports = [port for _, port in parted]
    return ",".join(host for host, _ in parted), ",".join(ports) if any(ports) else ""


def _split_port(item: str) -> tuple[str, str]:
    if bracketed := _BRACKETED.fullmatch(item):
        return bracketed[1], bracketed[2] or ""
    if item.startswith(("/", "@")) or item.count(":") != 1:  # a socket, a plain name, a bare IPv6 address
        return item, ""
    host, _, port = item.partition(":")
    return host, port


def pair_hosts(hosts: str, ports: str, *, quote: bool = True) -> tuple[Host, ...]:
    """Pair libpq's list of hosts with its list of ports: one port each, or one for all; () when both are "".

    `quote`: whether an error may quote a port that is a number. Raises `ConfigurationError`.
    """
    if not hosts and not ports:
        return ()
    names, numbers = hosts.split(","), ports.split(",")
    if len(numbers) == 1:
        numbers *= len(names)
    if len(numbers) != len(names):
        raise ConfigurationError(
            f"{len(numbers)} ports for {len(names)} hosts", hint="give one port for all hosts, or one for each"
        )
    if len(names) > 1 and not all(names):
        raise ConfigurationError(f"host {names.index('') + 1} of {len(names)} is empty", hint="name each host")
    return tuple(
        Host(_name(name, f"host {at} of {len(names)}"), _port(port, f"host {at} of {len(names)}", quote=quote))
        for at, (name, port) in enumerate(zip(names, numbers, strict=True), 1)
    )


def _name(name: str, which: str) -> str:
    if ":" in name and not name.startswith(("/", "@")):
        try:
            ipaddress.IPv6Address(name)
        except ValueError:
            wrong = "is not an IPv6 address"
        else:
            return name
    elif name.startswith(("/", "@")):
        return name
    elif _NO_NAME.search(name):
        wrong = "has a character that no host name has"
    elif not _can_be_looked_up(name):
        wrong = "is no host name: a part between its dots is empty, or too long"
    else:
        return name
    raise ConfigurationError(
        f"{which} {wrong}",
        hint="a special character in the user or password must be percent-encoded: @ %40, : %3A, / %2F, ? %3F",
    )


def _can_be_looked_up(name: str) -> bool:
    try:
        name.encode("idna")  # as `socket.getaddrinfo` does, which raises a bare UnicodeError
    except UnicodeError:
        return False
    return True


def _port(port: str, which: str, *, quote: bool) -> int | None:
    if not port:
        return None
    if port.isascii() and port.isdigit() and len(port) <= len(str(_MAX_PORT)) and 0 < int(port) <= _MAX_PORT:
        return int(port)
    subject = f"port={port}" if quote and _DIGITS.fullmatch(port) else "port"
    raise ConfigurationError(f"{subject} of {which} is not a port", hint=f"a whole number from 1 to {_MAX_PORT}")
