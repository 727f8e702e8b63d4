from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import families
from benchmarks.families import found, main, train_without
from networks import AnomalyScorer
from transforms.recipe import AnomalyRecipe
from transforms.synthetic import SyntheticAnomalies


def test_anomalies_are_ranked_against_the_same_images_without(
    make_scorer: Callable[..., AnomalyScorer],
    make_images: Callable[..., Tensor],
    calibrate: Callable[[AnomalyScorer, Tensor], AnomalyScorer],
) -> None:
    image = make_images(24)
    scorer = calibrate(make_scorer(with_head=True), image)
    everywhere = torch.ones_like(image[:, :1]).bool()
    batches = [{"image": image, "body": everywhere, "region": everywhere}]
    strong = AnomalyRecipe(clean_share=0, fillings=("opacity",), contrast=(1, 1), radius=(0.2, 0.3))
    row = found(scorer, batches, SyntheticAnomalies(strong))
    assert set(row) == {"score", *scorer.parts}
    assert row["recon"] > 0.6 and row == found(scorer, batches, SyntheticAnomalies(strong))


def test_each_training_withholds_its_family(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[list[str]] = []
    monkeypatch.setattr(families.subprocess, "run", lambda command, **_: called.append(command))
    train_without("tissue", tmp_path / "tissue", ["--image_size", "64"])
    (command,) = called
    assert command[command.index("--withheld") + 1] == "tissue"
    assert command[-2:] == ["--image_size", "64"] and families.CONFIG in command
    (tmp_path / "model.pt").touch()
    train_without("tissue", tmp_path, [])
    assert len(called) == 1


def test_an_unknown_family_is_refused(tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        main(["--dataset_dir", str(tmp_path), "--output", str(tmp_path), "--families", "mud"])
    assert "there is no 'mud' among opacity" in capsys.readouterr().err
