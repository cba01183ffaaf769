"""pulsepool beside its peers: every scenario of one run interleaved, on one machine, one server and one statement."""
