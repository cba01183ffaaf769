"""Any PostgreSQL address in; per-driver URL and connect arguments out; never a bare secret.

`address` is the value people hold. `parse` reads text, `parameters` knows libpq's keywords, `hosts` its lists of
servers, `service` its service files, `drivers` what each driver must be told so that all mean the same.
"""

from pulsepool.dsn.address import Dsn
from pulsepool.dsn.hosts import Host

__all__ = ["Dsn", "Host"]
