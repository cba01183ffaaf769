"""The proxy's process: it counts round trips and connections, and makes the network slow.

`python -m benchmarks.relay PORT` prints the port to connect to and the one to control it by, and ends with its stdin.
It is a loop of its own, because asyncio's timers are no finer than a millisecond and it would eat the time it measures.
"""

import ctypes
import json
import select
import socket
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from time import perf_counter

from benchmarks.wire import Wire

HOST = "127.0.0.1"
CHUNK = 65_536
PR_SET_TIMERSLACK = 29
"""prctl(2): by default the kernel may wake us 50 µs late, each way."""

LIMIT = 5.0
"""Seconds that a peer may leave its socket unread before it is given up."""


@dataclass(slots=True)
class Counts:
    """Since the proxy started: sessions asked for, cancel requests, round trips within sessions; and sessions open."""

    connects: int = 0
    cancels: int = 0
    trips: int = 0
    open: int = 0


@dataclass(slots=True)
class Slowness:
    """Seconds. `delay`: added to a round trip, half of it each way. `connect_delay`: before a connect goes through."""

    delay: float = 0.0
    connect_delay: float = 0.0


class Relay:
    """Passes on what clients and the server on `port` say to each other, in order and in time."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._counts, self._slowness = Counts(), Slowness()
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._under_way: deque[tuple[float, socket.socket, bytes]] = deque()  # in order, as all take as long
        self._connecting: deque[tuple[float, socket.socket]] = deque()
        self._over = False

    def run(self) -> None:
        """Pass on until stdin ends."""
        ports = []
        for accept in (self._accept, self._accept_control):
            listener = socket.create_server((HOST, 0), backlog=1024)
            self._watch(listener, partial(accept, listener))
            ports.append(listener.getsockname()[1])
        self._handlers[sys.stdin.fileno()] = self._stop
        self._epoll.register(sys.stdin.fileno(), select.EPOLLIN)
        sys.stdout.write(f"{ports[0]} {ports[1]}\n")
        sys.stdout.flush()
        while not self._over:
            # epoll's own timeout is in milliseconds, and so is too coarse; select's is not.
            select.select([self._epoll.fileno()], [], [], self._idle())
            for number, _ in self._epoll.poll(0):
                if handler := self._handlers.get(number):
                    handler()
            self._arrive()

    def _idle(self) -> float | None:
        due = [queue[0][0] for queue in (self._under_way, self._connecting) if queue]
        return max(0.0, min(due) - perf_counter()) if due else None

    def _arrive(self) -> None:
        now = perf_counter()
        while self._under_way and self._under_way[0][0] <= now:
            _, to, data = self._under_way.popleft()
            self._send(to, data)
        while self._connecting and self._connecting[0][0] <= now:
            self._connect(self._connecting.popleft()[1])

    def _watch(self, sock: socket.socket, handler: Callable[[], None]) -> None:
        self._handlers[sock.fileno()] = handler
        self._epoll.register(sock.fileno(), select.EPOLLIN)

    def _unwatch(self, sock: socket.socket) -> None:
        if self._handlers.pop(sock.fileno(), None):
            self._epoll.unregister(sock.fileno())

    def _stop(self) -> None:
        self._over = True

    def _accept(self, listener: socket.socket) -> None:
        client, _ = listener.accept()
        self._connecting.append((perf_counter() + self._slowness.connect_delay, client))

    def _connect(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection((HOST, self._port), LIMIT)
        except OSError:
            client.close()
            return
        for sock in (client, server):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(LIMIT)
        wire = Wire()
        self._watch(client, partial(self._from_client, client, server, wire))
        self._watch(server, partial(self._from_server, client, server, wire))

    def _from_client(self, client: socket.socket, server: socket.socket, wire: Wire) -> None:
        data = _receive(client)
        if not data:
            self._end(client, server, wire)
            return
        counts, was_started, trips = self._counts, wire.started, wire.trips
        wire.said(data)
        counts.trips += wire.trips - trips
        if wire.started and not was_started:
            counts.connects += 1
            counts.open += 1
        counts.cancels += wire.cancels
        self._pass(server, data)

    def _from_server(self, client: socket.socket, server: socket.socket, wire: Wire) -> None:
        data = _receive(server)
        if not data:
            self._end(server, client, wire)
            return
        wire.answered()
        self._pass(client, data)

    def _pass(self, to: socket.socket, data: bytes) -> None:
        if self._slowness.delay or self._under_way:
            self._under_way.append((perf_counter() + self._slowness.delay / 2, to, data))
        else:
            self._send(to, data)

    def _send(self, to: socket.socket, data: bytes) -> None:
        try:
            if data:
                to.sendall(data)
                return
        except OSError:
            self._unwatch(to)
        to.close()

    def _end(self, gone: socket.socket, left: socket.socket, wire: Wire) -> None:
        """One side has gone; the other will, when it has had what was under way."""
        self._counts.open -= wire.started
        self._unwatch(gone)
        self._unwatch(left)
        gone.close()
        self._pass(left, b"")

    def _accept_control(self, listener: socket.socket) -> None:
        control, _ = listener.accept()
        self._watch(control, partial(self._obey, control))

    def _obey(self, control: socket.socket) -> None:
        """One line of JSON in, what is to change of `Slowness`; one out, the `Counts`."""
        said = _receive(control)
        if not said:
            self._unwatch(control)
            control.close()
            return
        for name, value in json.loads(said).items():
            setattr(self._slowness, name, value)
        control.sendall(json.dumps(asdict(self._counts)).encode() + b"\n")


def _receive(sock: socket.socket) -> bytes:
    try:
        return sock.recv(CHUNK)
    except OSError:
        return b""


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1)
    Relay(int(sys.argv[1])).run()
