"""What this machine and these data are fit for."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aeflow import doctor


def test_it_tells_of_machine_and_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "train" / "normal"
    folder.mkdir(parents=True)
    for number in range(8):
        levels = np.full((16, 16), number + 1, np.uint8)
        Image.fromarray(levels).save(folder / f"n{number}.png")
    doctor.main([str(tmp_path)])
    told = capsys.readouterr().out
    assert "processors" in told and "torch 2" in told
    assert "8 pictures in the layout folder" in told
    assert "patients support a false-positive rate of" in told
    assert "normal pictures are few" in told and "no anomalous test case" in told
    assert told.splitlines()[-1] == f"Begin with: aeflow train {tmp_path}"
