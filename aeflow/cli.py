"""``aeflow``: the command line.

It answers before anything slow is imported: its first line, and what is wrong with a line.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from aeflow.commands import BUNDLE, COMMANDS, PRESETS, Command
from pipelines.common import installed_version, paragraph
from transforms.errors import InputError

FIRST_LINE = "AE-Flow {}: {}. For research only; not for diagnosis."


class Tool:
    """A command with a module of its own, which parses its own line."""

    def __init__(self, summary: str, load: Callable[[], Callable[[Sequence[str]], Any]]) -> None:
        self.summary = summary
        self.load = load


def _export() -> Callable[[Sequence[str]], Any]:
    from pipelines.export import formats

    return formats.main


def _package() -> Callable[[Sequence[str]], Any]:
    from pipelines.export import package

    return lambda words: package.main([str(BUNDLE), *words])


def _doctor() -> Callable[[Sequence[str]], Any]:
    from aeflow.doctor import main

    return main


def _report() -> Callable[[Sequence[str]], Any]:
    from aeflow.report import main

    return main


TOOLS = {
    "report": Tool("open the report of a finished run", _report),
    "export": Tool("write a model for other programs", _export),
    "package": Tool("pack model and code in the layout of MONAI's model zoo", _package),
    "doctor": Tool("say what this machine and these data are fit for", _doctor),
}


class Parser(argparse.ArgumentParser):
    """Tells what is wrong with a line in one paragraph."""

    def error(self, message: str) -> NoReturn:
        """Ends the program."""
        self.exit(2, f"Error: {message} See {self.prog} --help.\n")


def main(words: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    words = sys.argv[1:] if words is None else list(words)
    summaries = {name: one.summary for name, one in COMMANDS.items()}
    summaries |= {name: one.summary for name, one in TOOLS.items()}
    name = words[0] if words else ""
    if name not in summaries:
        return _no_command(name, summaries)
    version = installed_version("aeflow") or "from source"
    print(FIRST_LINE.format(version, summaries[name]), flush=True)
    return _guarded(name, words[1:])


def _no_command(name: str, summaries: dict[str, str]) -> int:
    from networks.choices import nearest

    listed = "\n".join(f"  aeflow {one:<10} {text}" for one, text in summaries.items())
    usage = f"aeflow <command> [path] [--option value ...]\n\n{listed}\n\naeflow <command> --help"
    if name in ("", "-h", "--help"):
        print(usage)
        return 0 if name else 2
    if name == "--version":
        print(installed_version("aeflow") or "from source")
        return 0
    sys.stderr.write(f"Error: there is no command {name!r}. {nearest(name, summaries)}\n{usage}\n")
    return 2


def _guarded(name: str, words: Sequence[str]) -> int:
    try:
        if name in TOOLS:
            TOOLS[name].load()(words)
        else:
            _run(name, COMMANDS[name], words)
    except InputError as error:
        sys.stderr.write(paragraph(str(error)))
    except Exception as error:
        from pipelines.common import tell_mistake  # slow, as is all that could raise here

        tell_mistake(type(error), error, error.__traceback__)
    else:
        return 0
    return 1


def _run(name: str, command: Command, words: Sequence[str]) -> None:
    from aeflow.run import run_command
    from pipelines.common import check_values

    given = options_of(name, command, words)
    preset = given.pop("preset", None)
    check_values(given)
    run_command(command, given, preset)


def options_of(name: str, command: Command, words: Sequence[str]) -> dict[str, Any]:
    """The options that a line gives, those of the command's folders included.

    Args:
        name: of the command.
        command: what it runs.
        words: the line behind the command.

    Raises:
        SystemExit: for a line that cannot be understood, and for ``--help``.
    """
    wants_help = bool({"-h", "--help"} & set(words))
    parser = _parser(name, command, wants_help)
    found, unknown = parser.parse_known_args(words)
    given = {option: value for option, value in vars(found).items() if value is not None}
    for word in unknown:
        _refuse(parser, command, word)
    path = given.pop("path", None)
    if path is not None:
        if command.argument in given:
            parser.error(f"{command.argument} is given twice, as {path!r} and with dashes.")
        given[command.argument] = path
    return {**command.folders, **given}


def _parser(name: str, command: Command, wants_help: bool) -> Parser:
    parser = Parser(
        prog=f"aeflow {name}", description=command.summary, allow_abbrev=False,
        formatter_class=argparse.RawTextHelpFormatter,
    )  # fmt: skip
    parser.add_argument("path", nargs="?", help=f"the same as --{command.argument}")
    if name == "train":
        parser.add_argument(
            "--preset", choices=("auto", *PRESETS), default="auto",
            help="how much to do; auto is standard, with a GPU's settings on a GPU",
        )  # fmt: skip
    for option, default in command.defaults.items():
        told = _told(option, default) if wants_help else None
        parser.add_argument(f"--{option}", type=_value, metavar="X", help=told)
    return parser


def _told(option: str, default: Any) -> str:
    from pipelines.common import Options, takes

    computed = isinstance(default, str) and default.startswith(("$", "@"))
    shown = "" if default is None or computed else f" (default {default})"
    meaning = f"{Options.model_fields[option].description}".replace("`", "")
    return f"{meaning}\ntakes {takes(option)}{shown}".replace("%", "%%")


def _value(word: str) -> Any:
    """A value as MONAI's command line reads it: a number, a list, or else text."""
    from fire.parser import DefaultParseValue

    return DefaultParseValue(word)


def _refuse(parser: Parser, command: Command, word: str) -> NoReturn:
    from networks.choices import nearest

    option = word.split("=")[0].lstrip("-")
    known = [*command.defaults, "preset"] if command.config == "train" else list(command.defaults)
    if word.startswith("-"):
        parser.error(f"there is no option {word.split('=')[0]}. {nearest(option, known)}".rstrip())
    parser.error(f"{word!r} is one word too many; only one path may follow the command.")


if __name__ == "__main__":
    sys.exit(main())
