"""Whether errors carry more spread: the tool that measures it."""

import csv
from pathlib import Path

import numpy as np
import pytest

from benchmarks import certainty


def write(path: Path, spread_of_errors: float) -> Path:
    rng = np.random.default_rng(0)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["level", "label", "score", "score_std", "flagged", "p_value"])
        for label in (0, 1) * 200:
            score = rng.normal(2.0 * label)
            wrong = (score > 1.6) != bool(label)
            std = spread_of_errors * wrong + rng.random()
            writer.writerow(["image", label, score, std, int(score > 1.6), rng.random()])
        writer.writerow(["image", "", 0.0, 0.0, 1, 0.5])
    return path


def test_figures_and_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = write(tmp_path / "scores.csv", spread_of_errors=2.0)
    picture = tmp_path / "reliability.png"
    certainty.main(["--scores", str(scores), "--picture", str(picture)])
    told = capsys.readouterr().out
    assert "of 400 images are misclassified" in told
    assert "| score_std | 1.000 | 1.000 | 1.000 |" in told
    assert picture.read_bytes().startswith(b"\x89PNG")
    shares = certainty.reliability(certainty.read_scores(scores))
    assert all(abs(share - level) < 0.1 for level, share in shares)


def test_one_method_has_closeness_alone(tmp_path: Path) -> None:
    found = certainty.read_scores(write(tmp_path / "scores.csv", 0.0))
    del found["score_std"]
    assert list(certainty.uncertainty(found)) == ["closeness to the threshold"]
    found["flagged"][:] = 0
    with pytest.raises(SystemExit, match="no threshold can be told"):
        certainty.uncertainty(found)
