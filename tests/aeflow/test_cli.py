"""The command line: its first words, its mistakes, and what it runs."""

import itertools
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aeflow import cli, run
from aeflow.commands import BUNDLE, COMMANDS, PRESETS, Command, bundle_line, config_names
from aeflow.plan import Choice, Plan
from pipelines.common.schema import Options

ROOT = Path(__file__).parents[2]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any, dict[str, Any]]]:
    """What would have been run; of a training the plan chooses nothing."""
    calls: list[tuple[str, Any, dict[str, Any]]] = []

    def no_choice(preset: str, given: dict[str, Any]) -> Plan:
        return Plan(Choice("preset", preset, ""), config_names(preset, False, False), given, (), {})

    def run_bundle(command: Command, files: list[str], given: dict[str, Any]) -> None:
        calls.append((command.run_id, [Path(file).stem for file in files], given))

    monkeypatch.setattr("aeflow.planning.make_plan", no_choice)
    monkeypatch.setattr(run, "run_bundle", run_bundle)
    return calls


def test_a_line_becomes_the_bundle_s_options(
    ran: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    line = "train scans --layout folder --slice_range [25,130] --weights {'flow':1} --n4 True"
    assert cli.main([*shlex.split(line), "--region=lungs", "--preset", "paper"]) == 0
    ((run_id, files, given),) = ran
    assert (run_id, files) == ("training", ["train", "paper"])
    assert given == {
        "dataset_dir": "scans", "layout": "folder", "slice_range": [25, 130],
        "weights": {"flow": 1}, "n4": True, "region": "lungs", "output_dir": "output",
        "ckpt_dir": "models",
    }  # fmt: skip
    told = capsys.readouterr().out
    assert told.startswith("AE-Flow ") and "not for diagnosis" in told.splitlines()[0]
    same = shlex.split(told.splitlines()[-1].removeprefix("The same: "))
    assert same[:5] == ["python", "-m", "monai.bundle", "run", "training"]
    assert same[6] == str([str(BUNDLE / "train.json"), str(BUNDLE / "paper.json")])
    assert same[same.index("--slice_range") + 1] == "[25, 130]"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("trian", "Did you mean 'train'?"),
        ("train --max_epoch 3", "Did you mean 'max_epochs'?"),
        ("train --max_epochs x", "max_epochs: expected a whole number"),
        ("train a b", "'b' is one word too many"),
        ("train a --dataset_dir b", "dataset_dir is given twice"),
        ("train --preset bset", "invalid choice: 'bset'"),
        ("train --max_epochs", "expected one argument"),
        ("train --encoder resnet19", "Did you mean 'resnet18'?"),
        ("predict --dataset_dir x", "there is no option --dataset_dir"),
        ("report nowhere", "there is no report.html in nowhere"),
        ("doctor nowhere", "dataset_dir: nowhere does not exist"),
    ],
)
def test_mistakes_are_told_in_a_paragraph(
    line: str, told: str, ran: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code: Any = cli.main(line.split())
    except SystemExit as end:
        code = end.code
    assert code in (1, 2) and ran == []
    words = " ".join(capsys.readouterr().err.split())
    assert told in words and words.startswith("Error: ") and "Traceback" not in words


def test_what_monai_cannot_parse_is_told_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    assert cli.main(["train", "%nowhere"]) == 1
    assert "refers to 'nowhere', which is not defined" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_help_lists_every_option(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([name, "--help"])
    told = capsys.readouterr().out
    assert end.value.code == 0
    for option, default in COMMANDS[name].defaults.items():
        assert f"--{option} " in told
        meaning = str(Options.model_fields[option].description).replace("`", "")
        assert " ".join(meaning.split()) in " ".join(told.split())
        if isinstance(default, int | float) and not isinstance(default, bool):
            assert f"(default {default})" in told


@pytest.mark.parametrize("words", [[], ["--help"], ["--version"]])
def test_without_a_command_it_says_what_there_is(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == (0 if words else 2)
    told = capsys.readouterr().out
    assert "--version" in words or all(
        f"aeflow {name} " in told for name in (*COMMANDS, *cli.TOOLS)
    )


def test_nothing_slow_is_imported_for_the_first_line() -> None:
    code = (
        "import sys; from aeflow import cli\n"
        "for words in (['max_epochs', 'x'], ['encoder', 'resnet19'], ['device', 'gpu']):\n"
        "    cli.main(['train', '--' + words[0], words[1]])\n"
        "print(sorted({'torch', 'monai', 'mlflow', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
    assert all(f"found {word!r}" in done.stderr for word in ("x", "resnet19", "gpu"))


def test_its_folders_and_presets_are_the_bundle_s() -> None:
    for command in COMMANDS.values():
        config = json.loads((BUNDLE / f"{command.config}.json").read_text())
        assert command.run_id in config and command.argument in config
        assert set(command.folders) <= set(config)
    for kind in itertools.product(PRESETS, (True, False), (True, False)):
        assert all((BUNDLE / f"{name}.json").is_file() for name in config_names(*kind))
    assert "'a b.png'" in bundle_line(COMMANDS["predict"], ["x"], {"input": "a b.png"})


def test_the_report_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    report = tmp_path / "report.html"
    report.write_text("")
    assert cli.main(["report", str(tmp_path), "--no_browser"]) == 0 and opened == []
    assert str(report) in capsys.readouterr().out
    assert cli.main(["report", str(tmp_path)]) == 0 and opened == [report.as_uri()]


def test_the_tools_get_their_line(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr("pipelines.export.package.main", seen.append)
    monkeypatch.setattr("pipelines.export.formats.main", seen.append)
    assert cli.main(["package", "--output", "x"]) == cli.main(["export", "--format", "onnx"]) == 0
    assert seen == [[str(BUNDLE), "--output", "x"], ["--format", "onnx"]]
