"""The command line: `python -m retinanet detect photo.jpg`.

A command is a module of `retinanet.cli`, named as it without hyphens, with a `SUMMARY`,
`add_arguments(parser)` and `run(args) -> int`. Bad input ends in exit code 2 and one line, whatever
room found it.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

COMMANDS: tuple[str, ...] = (
    *("detect", "why-not", "anchors", "loss", "pyramid"),
    *("dataset", "shapes"),
    *("train", "experiment", "evaluate", "card", "benchmark"),
)

BAD_INPUT = 2
INTERRUPTED = 130


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, without the usage above it."""

    def error(self, message: str) -> NoReturn:
        """Exit with code 2."""
        self.exit(BAD_INPUT, f"{self.prog}: {message} (--help shows how)\n")


def build_parser(commands: Sequence[str] = COMMANDS) -> argparse.ArgumentParser:
    """The parser of the given commands."""
    parser = OneLineParser(
        prog="retinanet", description="RetinaNet Explorer: detection that explains itself."
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in commands:
        module = import_module(f"retinanet.cli.{name.replace('-', '')}")
        command = subparsers.add_parser(name, help=module.SUMMARY, description=module.SUMMARY)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        The exit code: 0; 2 for bad input, with one line on stderr; 130 when interrupted.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    # Only the named command is imported, so that the others' libraries need not load.
    named = argv[:1] if argv and argv[0] in COMMANDS else COMMANDS
    args = build_parser(named).parse_args(argv)
    from retinanet.cli.errors import BAD_INPUT_ERRORS, one_line

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # "×" and "→" need not be in its code page
    try:
        code = args.run(args)
        sys.stdout.flush()
    except BAD_INPUT_ERRORS as error:
        print(f"retinanet {args.command}: {one_line(error)}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print(f"retinanet {args.command}: interrupted.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output, e.g. `head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


if __name__ == "__main__":
    sys.exit(main())
