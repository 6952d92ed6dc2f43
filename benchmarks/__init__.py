"""Measurements: ``python -m benchmarks.NAME``. Each prints a table and, with ``--json FILE``, writes its rows."""
