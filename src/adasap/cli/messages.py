"""Errors and warnings as the command line says them: in a sentence, options in place of Python's arguments."""

from __future__ import annotations

import sys

from adasap.experiments.terminal import open_console

_SPELLINGS = {
    "pass builder=<the function>, or trust_builder=True": "give --trust-builder",
    " (trust_builder=True in Python)": "",
    "trust_builder=True": "--trust-builder",
    " (in Python fixed_batch=N)": "",
    "fixed_batch=": "--fixed-batch ",
}


def for_command_line(message: str) -> str:
    """A message of the library with the command line's options in it.

    Example:
        >>> for_command_line("give trust_builder=True if you know that code")
        'give --trust-builder if you know that code'
    """
    for python, option in _SPELLINGS.items():
        message = message.replace(python, option)
    return message


def print_sentence(message: BaseException, title: str, style: str) -> None:
    """An error or a warning as a sentence, on stderr, in one line that is not broken."""
    console = open_console(stderr=True)
    console.print(f"{title}:", style=style, end=" ")
    console.print(for_command_line(str(message)), soft_wrap=True)


def allow_any_text() -> None:
    """A terminal or file that cannot show a character gets its number instead of an exception."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
