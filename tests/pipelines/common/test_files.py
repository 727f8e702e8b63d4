"""Files that appear whole or not at all."""

import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.common.files import replacing, writable_folder, write_csv, write_json
from transforms.errors import InputError

VALUES = np.random.default_rng(0).random((4, 90, 90))


def test_a_file_takes_its_place_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "down" / "map.nii.gz"
    with replacing(path) as temporary:
        assert temporary.parent == path.parent and temporary.name.endswith(".nii.gz")
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert [one.name for one in path.parent.iterdir()] == ["map.nii.gz"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_failure_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), replacing(tmp_path / "model.pt") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


WRITERS: dict[str, Callable[[Path], Any]] = {
    "a.npz": lambda path: np.savez(path, values=VALUES),
    "a.nii.gz": lambda path: nib.save(nib.Nifti1Image(VALUES, np.eye(4)), path),
    "a.png": lambda path: Image.fromarray((VALUES[0] * 255).astype(np.uint8)).save(path),
    "a.pt": lambda path: torch.save({"values": torch.from_numpy(VALUES)}, path),
    "a.txt": lambda path: path.write_text(str(VALUES.tolist())),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_told_and_nothing_half_written(tmp_path: Path, name: str) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    path = tmp_path / name
    path.write_text("old")
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(InputError, match=f"{name}: .*Free some space"), replacing(path) as new:
            WRITERS[name](new)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_other_errors_are_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "a"):
        open(tmp_path / "missing")


def test_failure_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="ckpt_dir: the folder .*file/models cannot be created"):
        writable_folder(tmp_path / "file" / "models", "ckpt_dir")


def test_a_folder_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(InputError, match="cannot be written. Choose another one with --output_dir"):
        write_json(tmp_path / "metrics.json", {})
    assert list(tmp_path.iterdir()) == []


def test_csv_has_the_columns_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    write_csv(path, [{"case": "a, b", "score": 1.5, "patient": "p"}], ["case", "score"])
    assert path.read_bytes() == b'case,score\r\n"a, b",1.5\r\n'
    write_csv(path, [], [])
    assert path.read_text().strip() == ""
