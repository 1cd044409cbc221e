"""Error messages of commands, with flags in place of the library's argument names and recipe keys."""

from __future__ import annotations

import errno
import logging
import re
import sys
from collections.abc import Mapping
from typing import Any

import typer
from typer.core import TyperCommand

from nearfar.errors import MOST_LISTED, InputError, MultipleInputError, NearfarError, printable

NEWLINE = "\n"

USAGE_ERROR = 2
"""Exit code of a usage or input error."""

RENAMED_FLAGS = {"--target-far": "--false-alarm-rate", "--method": "--rule", "--listen": "--check-channels"}
"""Flags of earlier versions, which every command with the new flag accepts."""

LIBRARY_NAMES = {
    "audio.near_channel": "near",
    "audio.far_channel": "far",
    "audio.clip_seconds": "seconds",
    "clip_seconds": "seconds",
    "encoder.weights": "encoder",
    "threshold.false_alarm_rate": "false_alarm_rate",
    "threshold.rule": "rule",
    "calibration.group_by": "group_by",
    "threshold rule": "rule",
}
"""Recipe keys and other subjects of library errors, and the parameters of commands that set them."""

_KEY = re.compile(r"(?<![\w.])(?:" + "|".join(map(re.escape, LIBRARY_NAMES)) + r")(?![\w.])")
_ARGUMENT = re.compile(r"\((\w+)(?:=\w+)?\)")


class Command(TyperCommand):
    """A command that prints a :class:`nearfar.errors.NearfarError` or OSError as one message, and exits with 2."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse arguments, with flags of earlier versions replaced."""
        flags = {flag for parameter in self.params for flag in parameter.opts}
        for old, new in RENAMED_FLAGS.items():
            if new in flags and old not in flags:
                args = [new + arg.removeprefix(old) if arg.partition("=")[0] == old else arg for arg in args]
        parsed: list[str] = super().parse_args(ctx, args)
        return parsed

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except NearfarError as error:
            given = {name for name in ctx.params if ctx.get_parameter_source(name).name == "COMMANDLINE"}
            print_error(in_flags(error, {parameter.name: _flag(parameter) for parameter in self.params}, given))
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise
            print_error(
                f"{error.filename or 'a file'}: found {error.strerror or error}; expected to read or write it. "
                "Check permissions and free space, and rerun the same command; complete files are used again."
            )
        raise typer.Exit(USAGE_ERROR)


def usage_error(subject: str, found: str, expected: str, remedy: str) -> InputError:
    """An error about an option or argument, or a combination of them."""
    return InputError(subject, found=found, expected=expected, remedy=remedy)


def print_error(message: str) -> None:
    """Print a message to standard error, without control characters that names of files may hold."""
    print(f"nearfar: {printable(message, kept=NEWLINE)}", file=sys.stderr)


class PrintableFormatter(logging.Formatter):
    """Formats messages of the log without control characters that names of files may hold."""

    def format(self, record: logging.LogRecord) -> str:
        """The message, on one or several lines."""
        return printable(super().format(record), kept=NEWLINE)


def in_flags(error: NearfarError, flags: Mapping[str, str], given: set[str]) -> str:
    """The message of an error of the library, with flags in place of arguments and recipe keys.

    Args:
        error: the error.
        flags: the flag of every parameter of the command, such as ``{"false_alarm_rate": "--false-alarm-rate"}``.
        given: names of the parameters on the command line; recipe keys that are set elsewhere are not replaced.
    """
    if isinstance(error, MultipleInputError):
        lines = [in_flags(entry, flags, given) for entry in error.errors[:MOST_LISTED]]
        more = str(error).split("\n")[len(error.summary) + len(lines) :]
        return "\n".join([*error.summary, *lines, *more])
    if not isinstance(error, InputError):
        return _arguments_in_flags(str(error), flags)
    given_flags = {name: flag for name, flag in flags.items() if name in given}
    where = str(error.where)
    return str(
        InputError(
            flags.get(where) or _keys_in_flags(where, given_flags),
            found=_keys_in_flags(error.found, given_flags),
            expected=_arguments_in_flags(error.expected, flags),
            remedy=_arguments_in_flags(error.remedy, flags),
        )
    )


def _arguments_in_flags(text: str, flags: Mapping[str, str]) -> str:
    """Replace arguments in parentheses, such as ``(machine)`` or ``(replace=True)``, and recipe keys by flags."""
    text = _ARGUMENT.sub(lambda match: f"({flags[match[1]]})" if match[1] in flags else match[0], text)
    return _keys_in_flags(text, flags)


def _keys_in_flags(text: str, flags: Mapping[str, str]) -> str:
    return _KEY.sub(lambda match: flags.get(LIBRARY_NAMES[match[0]], match[0]), text)


def _flag(parameter: Any) -> str:
    """The long flag of an option, or the name of an argument in the help text."""
    if parameter.param_type_name == "option":
        return str(max(parameter.opts, key=len))
    return str(parameter.metavar or parameter.name.upper()).rstrip(".")
