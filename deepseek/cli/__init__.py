"""The command line. A mistake of the user's ends in one clear line on stderr and exit code 2, never in a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from itertools import pairwise

_LISTS = ("--served-model-name",)


def main(args: Sequence[str] | None = None) -> None:
    """Entry point of the `deepseek` command. Ends in SystemExit: 0 done, 1 nobody reads, 2 a mistake, 130 interrupted."""
    from deepseek.cli.app import run_command
    from deepseek.core.errors import DeepSeekError

    try:
        code = run_command(spread_lists(sys.argv[1:] if args is None else args))
        sys.stdout.flush()
    except DeepSeekError as error:
        print(f"deepseek: {' '.join(str(error).split())}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:  # the reader, `head` perhaps, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter's last flush fails again
        code = 1
    sys.exit(code)


def spread_lists(args: Sequence[str]) -> list[str]:
    """`--served-model-name A B C`, as other servers write it, to one option for each name."""
    out: list[str] = []
    option = ""
    for arg in args:
        if arg.startswith("-"):
            name, has_value, _ = arg.partition("=")
            option = name if name in _LISTS else ""
            out += [arg] if has_value or not option else []
        elif option:
            out += [option, arg]
        else:
            out.append(arg)
    # An option without any value is left for the parser to refuse.
    bare = [arg for arg, after in pairwise([*args, "-"]) if arg in _LISTS and after.startswith("-")]
    return out + bare
