"""Benchmarks that back the project's claims: each prints a table and one line of JSON."""

import os

# An installed package has bytecode. Without it, each measured process would first compile its modules.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
