"""Every command in the documents is one that the program takes, and something runs it."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from aeflow import cli
from aeflow.commands import COMMANDS

ROOT = Path(__file__).parents[2]
NAMES = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "bundles/aeflow/docs/README.md")
PAGES = [*(ROOT / name for name in NAMES), *sorted((ROOT / "docs").glob("*.md"))]
PAGES += sorted((ROOT / "docs").glob("notebooks/*.ipynb"))
BUNDLE = re.compile(r"-m monai\.bundle run (.+)")
OURS = re.compile(r"^aeflow (?!something)(.+)", re.M)
PROGRAMS = re.compile(
    r"^(?:\S+/)?(?:aeflow|python3?|torchrun|srun|pip|curl|mkdocs|ruff|mypy|build_env\.sh) .+", re.M
)
RUN_BY = {
    "aeflow ": "tests/aeflow/test_readme.py",
    "aeflow compare": "tests/bundles/test_comparing.py",
    "python -m monai.bundle run comparing": "tests/bundles/test_comparing.py",
    "python -m monai.bundle run": "tests/bundles/test_training.py",
    "torchrun --standalone": "tests/bundles/test_together.py",
    "srun torchrun": "no: it needs two machines",
    "python -m monai.bundle verify_net_in_out": "tests/bundles/test_verify.py",
    "python -m monai.bundle ckpt_export": "tests/pipelines/export/test_formats.py",
    "python -m pipelines.export.formats": "tests/pipelines/export/test_formats.py",
    "python -m pipelines.export.package": "tests/pipelines/export/test_package.py",
    "python -m benchmarks.": "tests/benchmarks",
    "python -m tests.fuzz": "tests/fuzz/test_fuzz.py",
    "python -m pytest": ".ci/run",
    "python -m monailabel.main start_server": "tests/monailabel/test_start.py",
    "curl -X": "tests/monailabel/test_infer.py",
    "bundles/monailabel/build_env.sh": ".ci/run",
    "mkdocs build": ".ci/run",
    "pip wheel": ".ci/run",
    "ruff ": ".ci/run",
    "python3 -m venv": ".ci/run",
    "pip install -q -c constraints.txt": ".ci/run",
    "pip install -c constraints.txt": ".ci/run",
    "pip install highdicom": "no: a package by itself",
    "pip install pip-audit": "no: it asks another host",
    "pip-audit": "no: it asks another host",
}
"""How commands begin, and what runs the like; trainings with gpu.json need a GPU and data."""


def code() -> Iterator[tuple[str, str]]:
    """Pages with the code in each, line by line; what stands in angle brackets is a word."""
    for page in PAGES:
        found = re.findall(r"```bash\n(.*?)```|(?<!`)`([^`]+)`(?!`)", page.read_text(), re.S)
        for block, inline in found:
            joined = (block or inline.replace("\n", " ")).replace("\\\n", " ")
            yield page.name, re.sub(r"<.+?>", "something", joined)


def lines(pattern: re.Pattern[str]) -> list[tuple[str, str]]:
    """What of a pattern is found in the code."""
    return [(page, words) for page, text in code() for words in pattern.findall(text)]


def test_every_command_is_run_somewhere() -> None:
    for page, line in lines(PROGRAMS):
        for command in re.split(r" && ", line):
            command = re.sub(r"^(?:\w+=\S+ )?(?:~/label-env/bin/)?", "", command)
            known = [where for begin, where in RUN_BY.items() if command.startswith(begin)]
            other = command.startswith((". ", "pre-commit ", "lint-imports", "mypy"))
            assert known or other, f"{page}: nothing runs {command!r}"
    for where in RUN_BY.values():
        assert where.startswith("no: ") or (ROOT / where).exists()


@pytest.mark.parametrize(("page", "words"), lines(OURS))
def test_the_commands_of_aeflow(page: str, words: str) -> None:
    name, *rest = shlex.split(words, comments=True)
    assert name in (*COMMANDS, *cli.TOOLS)
    if name in COMMANDS and "--help" not in rest:
        assert cli.options_of(name, COMMANDS[name], rest)


@pytest.mark.parametrize(("page", "words"), lines(BUNDLE))
def test_the_lines_of_the_bundle(page: str, words: str) -> None:
    run_id, *rest = shlex.split(words, comments=True)
    given = dict(zip(rest[::2], rest[1::2], strict=True)) if "--config_file" in rest else {}
    if not given:  # a sentence about the command
        return
    named = given.pop("--config_file")
    files = re.findall(r"bundles/aeflow/(\w+)\.json", named)
    config = json.loads((ROOT / "bundles" / "aeflow" / f"{files[0]}.json").read_text())
    assert run_id in config and all((ROOT / f"bundles/aeflow/{f}.json").is_file() for f in files)
    assert {name.removeprefix("--") for name in given} <= set(config)


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= 900


def test_measured_times_stand_where_they_are_told() -> None:
    rows = re.findall(r"^\|(.+)\|$", (ROOT / "docs" / "hardware.md").read_text(), re.M)[2:]
    assert rows
    for row in rows:
        _, _, figures, told = row.split("|")
        page = re.findall(r"\((.+)\)", told)[0]
        known = set(re.findall(r"[\d.]+", (ROOT / "docs" / page).read_text()))
        assert set(re.findall(r"[\d.]+", figures)) <= known, row


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
