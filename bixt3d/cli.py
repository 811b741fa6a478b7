"""The command `bixt3d`: finds the verb that is named, reads its options, and runs it.

PyTorch and the other heavy packages are imported by the verb that runs, so that help and wrong options are
answered at once.
"""

from __future__ import annotations

import argparse
import inspect
import shutil
import sys
import textwrap
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

from bixt3d import __version__, commands
from bixt3d.commands.endings import one_line_errors
from bixt3d.commands.options import UsageError, add_common, join_axes
from bixt3d.suggest import nearest


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Run one command line.

    Args:
        argv: Its words, such as ``["train", "modelnet40_cpu"]``; those of this process if None.
        prog: What help and errors call the program; ``bixt3d <verb>`` if None.

    Raises:
        SystemExit: Where the command ends with an error, after one line that says which.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    verb: ModuleType = commands
    name = "bixt3d"
    while is_group(verb):
        if not words or words[0] not in (*verb.COMMANDS, *getattr(verb, "HIDDEN", ())):
            _no_command(verb, name, words)
            return
        verb, name = _find(verb, words[0]), f"{name} {words[0]}"
        words.pop(0)
    parser = parser_of(verb, prog or name)
    args = parser.parse_args(join_axes(words))
    with one_line_errors(getattr(verb, "STOPPED", "stopped"), args) as args.ending:
        try:
            verb.run(args)
        except UsageError as error:
            parser.error(str(error))


def is_group(verb: ModuleType) -> bool:
    """Whether a module of `bixt3d.commands` holds verbs, rather than being one."""
    return hasattr(verb, "COMMANDS")


def parser_of(verb: ModuleType, prog: str) -> argparse.ArgumentParser:
    """Return a verb's parser; its help is the module's docstring, whose examples come last."""
    parser = argparse.ArgumentParser(prog=prog, **_about(verb))
    _add_options(parser, verb)
    return parser


def _add_options(parser: argparse.ArgumentParser, verb: ModuleType) -> None:
    verb.add_arguments(parser)
    add_common(parser)


def group_parser(group: ModuleType, prog: str) -> argparse.ArgumentParser:
    """Return the parser of a group of verbs, whose help lists them."""
    about = _about(group)
    width = 2 + max(map(len, group.COMMANDS))
    columns = shutil.get_terminal_size().columns - 2
    rows = [
        textwrap.fill(
            _first_line(_find(group, name)),
            max(columns, width + 20),
            initial_indent=f"  {name:{width}}",
            subsequent_indent=" " * (width + 2),
        )
        for name in group.COMMANDS
    ]
    about["description"] = "\n".join([str(about["description"]), "", "commands:", *rows])
    about["epilog"] = f"{about['epilog']}\n\n{prog} COMMAND --help says more of one."
    parser = argparse.ArgumentParser(prog=prog, usage=f"{prog} COMMAND [options]", **about)
    if group is commands:
        parser.add_argument("--version", action="store_true", help="print the version")
        parser.add_argument(
            "--print-completion",
            choices=("bash", "zsh", "tcsh"),
            metavar="SHELL",
            help="print what completes commands and options in bash, zsh or tcsh",
        )
    return parser


def completion(shell: str) -> str:
    """Return a script by which a shell completes the command.

    Raises:
        ImportError: If shtab is not installed.
    """
    try:
        import shtab
    except ImportError:
        raise ImportError("completion needs shtab: pip install shtab") from None
    parser = group_parser(commands, "bixt3d")
    _add_verbs(parser, commands)
    return str(shtab.complete(parser, shell))


def _add_verbs(parser: argparse.ArgumentParser, group: ModuleType) -> None:
    """Give a group's parser those of its verbs, which `main` reads for itself."""
    below = parser.add_subparsers()
    for name in group.COMMANDS:
        verb = _find(group, name)
        child = below.add_parser(name, help=_first_line(verb))
        if is_group(verb):
            _add_verbs(child, verb)
        else:
            _add_options(child, verb)


def _find(group: ModuleType, name: str) -> ModuleType:
    return import_module(f"{group.__name__}.{name.replace('-', '_')}")


def _about(module: ModuleType) -> dict[str, Any]:
    """Return what a parser says of a module: its docstring, from "Example" on at the end."""
    about, _, examples = (inspect.getdoc(module) or "").partition("\n\nExample")
    return {
        "description": about,
        "epilog": f"example{examples}",
        "formatter_class": argparse.RawDescriptionHelpFormatter,
    }


def _first_line(verb: ModuleType) -> str:
    return (inspect.getdoc(verb) or "").partition("\n")[0].removesuffix(".")


def _no_command(group: ModuleType, prog: str, words: Sequence[str]) -> None:
    """Answer a command line that names no verb of a group: help, version, or what it could have meant."""
    parser = group_parser(group, prog)
    if words and not words[0].startswith("-"):
        known = ", ".join(group.COMMANDS)
        parser.error(
            f"expected a command, one of {known}; got {words[0]!r}{nearest(words[0], group.COMMANDS)}"
        )
    args = parser.parse_args(words)
    if getattr(args, "version", False):
        print(f"bixt3d {__version__}")
    elif getattr(args, "print_completion", None):
        with one_line_errors():
            print(completion(args.print_completion))
    else:
        parser.print_help()
