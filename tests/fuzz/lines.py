"""Wrong command lines and configs, and what typing them comes to."""

import contextlib
import json
import logging
import shutil
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import fire
import numpy as np
from monai.bundle import run

from pipelines.common.options import find_mistake
from pipelines.common.plain import plain_options
from pipelines.training.sequence import StagedTraining
from tests.fuzz.place import BUNDLE, place

COMMANDS = {
    "train": "training",
    "evaluate": "evaluating",
    "inference": "inferring",
    "calibrate": "calibrating",
}
ODD_WORDS = (
    *("nan", "-1", "0", "1e300", "[]", "{}", "None", "True", "", "x" * 300, "$1/0", "$nothing"),
    *("@nowhere", "%nowhere", "/dev/null", "[1,2,3]", "{'a':1}", "1.5", "\u00fcn\u00ef"),
    *("a b", "[", "'", "--", "\\", "*", "1,2", "cpu", "\x7f"),
)
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1e300, 1.5, "", "x" * 300, "@nowhere", "%nowhere", "$nothing", "$1/0"),
    *([], {}, [1, 2, 3], {"a": 1}, {"_target_": "nowhere.Nothing"}, [[]]),
)

Words = list[str]
Change = Callable[[str, Words, np.random.Generator, Path], None]

MONAIS = "told by MONAI"
"""Before anything of the bundle is imported."""


class Began(Exception):
    """A training would have begun."""


def _content(config: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((BUNDLE / f"{config}.json").read_text())
    return content


def _some_option(config: str, source: np.random.Generator) -> str:
    options = sorted(plain_options(_content(config)))
    return options[source.integers(len(options))]


def _odd(source: np.random.Generator) -> str:
    return ODD_WORDS[source.integers(len(ODD_WORDS))]


def an_odd_value(config: str, words: Words, source: np.random.Generator, folder: Path) -> None:
    words += [f"--{_some_option(config, source)}", _odd(source)]


def two_odd_values(config: str, words: Words, source: np.random.Generator, folder: Path) -> None:
    an_odd_value(config, words, source, folder)
    an_odd_value(config, words, source, folder)


def a_misspelt_option(config: str, words: Words, source: np.random.Generator, folder: Path) -> None:
    name = _some_option(config, source)
    place = int(source.integers(len(name)))
    piece = ("", name[place] * 2, name[place].upper(), "#", "-")[source.integers(5)]
    words += [f"--{name[:place]}{piece}{name[place + 1 :]}", "1"]


def an_option_of_another_command(
    config: str, words: Words, source: np.random.Generator, folder: Path
) -> None:
    others = sorted(set(COMMANDS) - {config})
    words += [f"--{_some_option(others[source.integers(len(others))], source)}", _odd(source)]


def a_stray_word(config: str, words: Words, source: np.random.Generator, folder: Path) -> None:
    words.insert(int(source.integers(4, len(words) + 1)), _odd(source))


def a_part_replaced(config: str, words: Words, source: np.random.Generator, folder: Path) -> None:
    parts = sorted(set(_content(config)) - set(plain_options(_content(config))))
    words += [f"--{parts[source.integers(len(parts))]}", _odd(source)]


def _places(content: Any) -> list[tuple[Any, Any]]:
    keys = list(content) if isinstance(content, dict) else list(range(len(content)))
    found = [(content, key) for key in keys]
    for key in keys:
        if isinstance(content[key], (dict, list)):
            found += _places(content[key])
    return found


def _edited(
    config: str, words: Words, source: np.random.Generator, folder: Path, edit: Callable[..., None]
) -> None:
    content = _content(config)
    places = _places(content)
    edit(*places[source.integers(len(places))])
    for name in ("metadata.json", "logging.conf"):
        shutil.copy(BUNDLE / name, folder)
    (folder / f"{config}.json").write_text(json.dumps(content))
    words[words.index("--config_file") + 1] = str(folder / f"{config}.json")


def another_value_in_the_config(
    config: str, words: Words, source: np.random.Generator, folder: Path
) -> None:
    odd = ODD_VALUES[source.integers(len(ODD_VALUES))]
    _edited(config, words, source, folder, lambda holder, key: holder.__setitem__(key, odd))


def a_value_missing_in_the_config(
    config: str, words: Words, source: np.random.Generator, folder: Path
) -> None:
    _edited(config, words, source, folder, lambda holder, key: holder.__delitem__(key))


CHANGES: dict[str, Change] = {
    change.__name__: change
    for change in (
        an_odd_value,
        two_odd_values,
        a_misspelt_option,
        an_option_of_another_command,
        a_stray_word,
        a_part_replaced,
        another_value_in_the_config,
        a_value_missing_in_the_config,
    )
}


def kinds() -> list[tuple[str, str]]:
    """Every change of every command."""
    return [(config, change) for config in COMMANDS for change in CHANGES]


def line(config: str, mutation: str, number: int, folder: Path) -> Words:
    """The words of a command line gone wrong; the same for the same number."""
    source = np.random.default_rng([number, *config.encode(), *mutation.encode()])
    words = ["run", COMMANDS[config], "--config_file", str(BUNDLE / f"{config}.json")]
    words += ["--output_dir", str(folder / "output")]
    words += ["--ckpt_dir", str(folder / "models" if config == "train" else place() / "models")]
    pictures = str(place() / "pictures")
    if config == "inference":
        words += ["--input", f"{pictures}/test/normal"]
    else:
        words += ["--dataset_dir", pictures]
    if config in ("train", "evaluate"):
        words += ["--tracking_uri", "none"]
    CHANGES[mutation](config, words, source, folder)
    return words


def check(name: str, mutation: str, number: int, folder: Path) -> str:
    """Types a line gone wrong: what that comes to."""
    case = folder / f"{name}-{mutation}-{number}"
    case.mkdir()
    try:
        with _quiet(case):
            fire.Fire({"run": run}, command=line(name, mutation, number, case))
    except Began:
        return "accepted"
    except fire.core.FireExit as error:
        return "refused" if error.code else "accepted"
    except BaseException as error:  # what is looked for
        if isinstance(error.__cause__, Began) or isinstance(error.__context__, Began):
            return "accepted"
        if find_mistake(error) is not None:
            return "refused"
        if not _is_ours(error):
            return MONAIS
        cause = error.__cause__ or error
        return f"a traceback, {type(cause).__name__}: {str(cause)[:200]}"
    finally:
        shutil.rmtree(case, ignore_errors=True)
    return "accepted"


def _is_ours(error: BaseException) -> bool:
    """Whether any of the bundle had been run by then; before, MONAI alone decides what is told."""
    frames = traceback.extract_tb(error.__traceback__)
    return any(frame.name == "_run_expr" for frame in frames)


@contextlib.contextmanager
def _quiet(folder: Path) -> Iterator[None]:
    """No training, nothing said, and no file where it was not asked for."""
    place()
    logging.disable(logging.CRITICAL)
    with (
        contextlib.ExitStack() as undone,
        mock.patch.object(StagedTraining, "run", side_effect=Began),
        warnings.catch_warnings(),
        (folder / "said").open("w") as said,
        mock.patch("sys.stdout", said),
        mock.patch("sys.stderr", said),
        mock.patch.dict("os.environ"),
        mock.patch("sys.excepthook"),
        contextlib.chdir(folder),
    ):
        undone.callback(logging.disable, logging.NOTSET)
        warnings.simplefilter("ignore")
        yield
