"""PostgreSQL's protocol as far as counting takes: where a client's messages begin, and which ask for an answer."""

SSL_REQUEST, GSS_REQUEST, CANCEL_REQUEST = 80877103, 80877104, 80877102
"""Codes of the first packet that are no start of a session (protocol.h of PostgreSQL)."""

ASKS = frozenset(b"QSHF")
"""Query, Sync, Flush and FunctionCall: after one of these a client waits."""

HEADER = 5


class Wire:
    """One connection's client side. `started` once it has asked for a session, `cancels` when it was there to cancel.

    `trips` counts the times that the client asked and then had to wait: messages that are sent together, or before the
    server said anything, are one.
    """

    def __init__(self) -> None:
        self.started = False
        self.cancels = False
        self.trips = 0
        self._waits = False
        self._rest = b""

    def answered(self) -> None:
        """The server has said something."""
        self._waits = False

    def said(self, chunk: bytes) -> None:
        """The client has sent `chunk`, which may end in the midst of a message."""
        data = self._rest + chunk if self._rest else chunk
        at = 0
        while at < len(data):
            if not self.started:
                length = int.from_bytes(data[at : at + 4]) if len(data) - at >= 8 else len(data)
                if len(data) - at < 8 or len(data) - at < length:
                    break
                code = int.from_bytes(data[at + 4 : at + 8])
                self.cancels = code == CANCEL_REQUEST
                self.started = code not in (SSL_REQUEST, GSS_REQUEST, CANCEL_REQUEST)
                at += length
                continue
            if len(data) - at < HEADER:
                break
            end = at + 1 + int.from_bytes(data[at + 1 : at + HEADER])
            if end > len(data):
                break
            if data[at] in ASKS and not self._waits:
                self._waits = True
                self.trips += 1
            at = end
        self._rest = data[at:]
