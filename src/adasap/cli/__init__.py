"""The command line: one file per verb."""

from adasap.cli.main import app, main

__all__ = ["app", "main"]
