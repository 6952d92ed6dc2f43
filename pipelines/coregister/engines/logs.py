"""Log lines of the libraries that open files, without the queries of addresses: they hold signatures."""

from __future__ import annotations

import logging
import re
from functools import cache

# Those that write addresses: GDAL's messages through rasterio, and HTTP clients.
LOGGERS = (
    "rasterio",
    "rasterio._base",
    "rasterio._env",
    "rasterio._err",
    "rasterio._io",
    "httpx",
    "urllib3.connectionpool",
)
_QUERY = re.compile(r"\?[^\s'\"]+")


class WithoutQueries(logging.Filter):
    """Lets every line pass, its addresses cut at the question mark."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrites a record in place."""
        said = record.getMessage()
        plain = _QUERY.sub("?...", said)
        if plain != said:
            record.msg, record.args = plain, ()
        return True


@cache
def hide_queries() -> None:
    """Puts the filter on the libraries' loggers of this process, once."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(WithoutQueries())
