import json
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import psutil
import pytest

from pipelines.data.cases import Case
from pipelines.scoring.model_file import read_model
from pipelines.scoring.predictor import Predictor

NORMALS = ("study0", "study1", "study2")


def mark(server: Any, name: str, normal: bool = True) -> None:
    data = {"info": json.dumps({"normal": normal})}
    answer = server.call("PUT", f"/datastore/image/info?image={name}", data=data)
    assert answer.status_code == 200, answer.text


def is_training(process: psutil.Process, server: Any) -> bool:
    words = process.info["cmdline"] or []
    return "monai.bundle" in words and any(str(server.temporary) in word for word in words)


def test_an_empty_final_label_marks_a_study_normal(server: Any, tmp_path: Path) -> None:
    source = nib.load(server.studies / "study2.nii.gz")
    for value in (1, 0):
        label = np.full(source.shape, value, np.uint8)
        nib.save(nib.Nifti1Image(label, source.affine), tmp_path / "label.nii.gz")
        with (tmp_path / "label.nii.gz").open("rb") as stream:
            files = {"label": ("label.nii.gz", stream)}
            answer = server.call("PUT", "/datastore/label?image=study2&tag=final", files=files)
        assert answer.status_code == 200, answer.text
        info = server.get("/datastore/image/info?image=study2")
        assert info["normal"] is (value == 0)
    assert (server.studies / "labels" / "final" / "study2.nii.gz").is_file()


def test_calibrating_fits_the_thresholds_alone(server: Any) -> None:
    before = read_model(server.ckpt_dir)
    refused = server.call("POST", "/train/aeflow", json={"calibrate": "yes"})
    assert refused.status_code == 400 and "expected true or false" in refused.json()["detail"]
    for name in NORMALS[:2]:
        mark(server, name)
    began = server.call("POST", "/train/aeflow", json={"calibrate": True, "target_fpr": 0.4})
    assert began.status_code == 200, began.text
    status = server.wait("train")
    for name in NORMALS[:2]:
        mark(server, name, normal=False)
    assert status["status"] == "DONE", (status, server.log.read_text()[-3000:])
    after = read_model(server.ckpt_dir)
    kept = [name for name in before["model"] if not name.startswith("calibration.")]
    assert all(before["model"][name].equal(after["model"][name]) for name in kept)
    count = len(after["case_scores"])  # of those that the model was not trained on
    assert int(after["model"]["calibration.n_patients"]) == count in (1, 2)
    assert after["target_fpr"] == 0.4 and after["created"] != before["created"]
    assert read_model(server.ckpt_dir / "model-previous.pt")["created"] == before["created"]
    shown = server.infer("study1").json()
    assert shown["n_normal"] == count
    assert shown["target_fpr"] == pytest.approx(max(0.4, 1 / (count + 1)))
    stats = server.get("/info/")["train_stats"]["aeflow"]
    assert stats["options"] == {"target_fpr": 0.4, "calibrate": True}


def test_training_replaces_the_model_when_it_is_complete(server: Any) -> None:
    before = server.infer("study1").json()
    too_few = server.call("POST", "/train/aeflow", json={})
    assert too_few.status_code == 409 and "normal" in too_few.json()["detail"]
    for name in NORMALS:
        mark(server, name)
    began = server.call("POST", "/train/aeflow", json={"max_epochs": 2, "seed": 5})
    assert began.status_code == 200, began.text
    seen, during, epochs = set(), [], []
    end = time.monotonic() + 200
    while time.monotonic() < end:
        status = server.get("/train/")
        seen.update(status.get("details", ()))
        if status["status"] not in ("SUBMITTED", "RUNNING"):
            break
        during.append(server.infer("study1").json()["model"])
        shown = server.get("/info/")["train_stats"]["aeflow"]
        epochs.append((shown.get("epoch", 0), shown.get("total_epochs")))
        time.sleep(1)
    assert status["status"] == "DONE", (status, server.log.read_text()[-3000:])
    assert any("Epoch 2/2" in line for line in seen), seen
    model = read_model(server.ckpt_dir)
    former = read_model(server.ckpt_dir / "model-previous.pt")
    assert model["modalities"] == former["modalities"] == ["flair"]
    assert model["preprocessing"] == former["preprocessing"]
    used = {name for names in model["split"].values() for name in names}
    assert used == set(NORMALS)
    after = server.infer("study1").json()
    assert after["model"] != before["model"]
    assert during[0] == before["model"] and during == sorted(during, key=after["model"].__eq__)
    path = server.studies / "study1.nii.gz"
    scored = Predictor(server.ckpt_dir)(Case("study", "study", (path,)))
    assert after["score"] == pytest.approx(scored.case_score.score, abs=1e-4)
    assert (server.ckpt_dir / "model-previous.pt").is_file()
    # What the viewers' bars are drawn from: one epoch of pre-training, two of training.
    reached = [epoch for epoch, _ in epochs if epoch]
    assert {total for epoch, total in epochs if epoch} == {3}
    assert reached == sorted(reached) and max(reached) >= 2
    stats = server.get("/info/")["train_stats"]["aeflow"]
    assert stats["studies"] == 3 and stats["total_time"] and "epoch" not in stats


def test_training_that_fails_leaves_the_model(server: Any) -> None:
    before = server.infer("study1").json()["model"]
    for name in NORMALS:
        mark(server, name)
    content = (server.studies / "study0.nii.gz").read_bytes()
    try:
        (server.studies / "study0.nii.gz").write_bytes(content[:1000])
        server.call("POST", "/train/aeflow", json={"max_epochs": 1})
        status = server.wait("train")
    finally:
        (server.studies / "study0.nii.gz").write_bytes(content)
    assert status["status"] == "ERROR"
    told = " ".join(status["details"])
    assert "unchanged" in told and "cut off" in told, told
    assert server.infer("study1").json()["model"] == before
    assert not list(server.temporary.rglob("training-*"))


def test_training_that_is_stopped_leaves_nothing(server: Any) -> None:
    before = server.infer("study1").json()["model"]
    for name in NORMALS:
        mark(server, name)
    server.call("POST", "/train/aeflow", json={"max_epochs": 500})
    end = time.monotonic() + 60
    while time.monotonic() < end and not list(server.temporary.rglob("training-*/log.txt")):
        time.sleep(0.2)
    assert list(server.temporary.rglob("training-*/log.txt"))
    assert server.call("DELETE", "/train/").json()["status"] == "STOPPED"
    assert not list(server.temporary.rglob("training-*"))
    assert not [one for one in psutil.process_iter(["cmdline"]) if is_training(one, server)]
    assert server.get("/train/")["status"] == "STOPPED"
    assert "epoch" not in server.get("/info/")["train_stats"]["aeflow"]
    assert server.infer("study1").json()["model"] == before
