"""What the README says of own data, as printed there."""

import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from aeflow import cli
from pipelines.data.phantom.writer import ensure_phantom_dataset

README = Path(__file__).parents[2] / "README.md"
SHORT: dict[str, Any] = {
    "image_size": 32, "flow_steps": 1, "decoder_width": 4, "pretrain_epochs": 1,
    "pretrain_epoch_size": 16, "max_epochs": 1, "tracking_uri": "none",
}  # fmt: skip
ADDED = {
    "train": [f"--{name}={value}" for name, value in SHORT.items()],
    "evaluate": ["--tracking_uri=none"],
    "report": ["--no_browser"],
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the folders lie that the commands name."""
    phantoms = ensure_phantom_dataset(tmp_path, patients=9, size=(48, 48, 16))
    patients = sorted(phantoms.glob("Phantom_*"))
    for name in ("normals", "labelled"):
        for patient in patients[:6]:
            shutil.copytree(patient, tmp_path / name / patient.name)
    for name, chosen in (("new_scans", patients[6:7]), ("site_normals", patients[7:])):
        (tmp_path / name).mkdir()
        for patient in chosen:
            shutil.copy(patient / f"{patient.name}_flair.nii.gz", tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_for_own_data_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    section = README.read_text().split("## Your own data")[1]
    block = section.split("```bash\n")[1].split("```")[0]
    commands = [shlex.split(line, comments=True)[1:] for line in block.splitlines()]
    assert [words[0] for words in commands] == [
        "doctor", "train", "predict", "report", "evaluate", "calibrate",
    ]  # fmt: skip
    for words in commands:
        code = cli.main([*words, *ADDED.get(words[0], [])])
        assert code == 0, (words, capsys.readouterr().err)
    for left in ("inference/report.html", "evaluation/report.html", "calibrated/model.pt"):
        assert (folder / left).is_file()
