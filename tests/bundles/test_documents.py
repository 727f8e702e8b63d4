"""Every command in the documents is one that the program takes."""

import json
import re
import shlex
from pathlib import Path

import pytest

from aeflow import cli
from aeflow.commands import COMMANDS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "bundles" / "aeflow" / "docs" / "README.md"]
PAGES += sorted((ROOT / "docs").glob("*.md"))
BUNDLE = re.compile(r"python -m monai\.bundle run (.+)")
OURS = re.compile(r"^aeflow (?!<)(.+)", re.M)


def lines(pattern: re.Pattern[str]) -> list[tuple[str, str]]:
    """What follows a command in the code of each page; what stands in angle brackets is a word."""
    found = []
    for page in PAGES:
        code = re.findall(r"```bash\n(.*?)```|`(.+?)`", page.read_text(), re.S)
        for block, inline in code:
            for words in pattern.findall((block or inline).replace("\\\n", " ")):
                found.append((page.name, re.sub(r"<.+?>", "something", words)))
    return found


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


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
