"""Exported files: what they hold, that they score like the model, and what is refused."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from networks import AnomalyScorer
from pipelines.data.slices import CaseLoader
from pipelines.export import formats as export
from pipelines.export.formats import FORMATS, ParityError, export_model, main
from pipelines.export.parity import compare, probe_context, probe_images
from pipelines.scoring.model_file import load_scorer, read_model, save_model
from transforms.errors import InputError

MakeScorer = Callable[..., AnomalyScorer]
MakeImages = Callable[..., Tensor]
Calibrate = Callable[[AnomalyScorer, Tensor], AnomalyScorer]

ROOT = Path(__file__).parents[3]
FACTS: dict[str, Any] = {
    "versions": {"aeflow": "0"},
    "split": {"train": ["secret case"]},
}


@pytest.fixture
def model(
    tmp_path: Path,
    make_scorer: MakeScorer,
    make_images: MakeImages,
    calibrate: Calibrate,
    model_facts: dict[str, Any],
) -> Path:
    folder = tmp_path / "models"
    scorer = calibrate(make_scorer(with_head=True), make_images(8))
    save_model(folder / "model.pt", scorer, model_facts | FACTS)
    return folder


def need(format_name: str) -> None:
    if format_name == "onnx":
        for package in export.EXPORT_PACKAGES:
            pytest.importorskip(package)


@pytest.mark.parametrize("name", list(FORMATS))
def test_a_file_scores_like_the_model_and_says_what_it_is(
    name: str, model: Path, make_images: MakeImages
) -> None:
    need(name)
    done = export_model(model, name)
    assert done.path == model / f"model{FORMATS[name].suffix}"
    assert done.parity.agrees and done.parity.score < 1e-4 and done.parity.images == 24
    assert sorted(path.name for path in model.iterdir()) == sorted(["model.pt", done.path.name])

    run, metadata = FORMATS[name].load(done.path, "cpu")
    scorer = load_scorer(read_model(model))
    for count in (1, 3, 7):
        image = make_images(count, seed=count)
        assert compare(scorer, image, run(image)).agrees
    assert metadata["threshold"] == pytest.approx(float(scorer.calibration.threshold))
    assert metadata["outputs"] == ["anomaly_map", "score", "percentile", "flagged"]
    assert metadata["inputs"] == ["image"]
    assert metadata["preprocessing"]["image_size"] == [32, 32]
    assert "secret case" not in json.dumps(metadata)
    with pytest.raises(Exception, match="32"):
        run(make_images(1, 1, 64, 64))


@pytest.mark.parametrize(
    ("name", "weighted", "depth"),
    [
        *((name, "bright", depth) for name in FORMATS for depth in (None, 16)),
        ("torchscript", "flow", None),
    ],
)
def test_a_file_takes_what_the_model_needs_beside_the_image(
    name: str,
    weighted: str,
    depth: int | None,
    tmp_path: Path,
    make_scorer: MakeScorer,
    make_images: MakeImages,
    calibrate: Calibrate,
    model_facts: dict[str, Any],
) -> None:
    """Images, and patches of volumes."""
    need(name)
    weights = {weighted: 0.75, "recon": 0.25}
    patch_size = None if depth is None else (depth, 32, 32)
    scorer = make_scorer(
        normative=True, weights=weights, map_weights=weights, patch_size=patch_size
    )
    preprocessing = CaseLoader(32, volumetric=True, patch_size=patch_size).parameters
    facts = model_facts | FACTS | {"preprocessing": preprocessing}
    save_model(tmp_path / "model.pt", calibrate(scorer, make_images(8, depth=depth)), facts)
    done = export_model(tmp_path, name)
    assert done.parity.agrees and done.parity.images == 24
    run, metadata = FORMATS[name].load(done.path, "cpu")
    assert metadata["inputs"] == ["image", "body", "place"]
    assert metadata["input"].startswith("float32 (B, C, " + ("D, H, W)" if depth else "H, W)"))
    for count in (1, 3, 7):
        image, other = (make_images(count, seed=s, depth=depth) for s in (count, 9))
        body = other > 0.3
        context = {"body": body, "place": torch.rand(count, (depth or 1) + 32 + 32)}
        found = run(image, *context.values())
        assert compare(scorer, image, found, context).agrees
        shifted = {"body": body, "place": 1 - context["place"]}
        assert compare(scorer, image, found, shifted).agrees == (weighted == "flow")


def test_a_context_for_probes_is_as_the_model_takes_it() -> None:
    image = torch.rand(3, 2, 16, 32)
    found = probe_context(("place", "body"), image)
    assert list(found) == ["place", "body"]
    assert found["place"].shape == (3, 1 + 16 + 32) and found["place"].dtype == torch.float32
    assert found["body"].shape == (3, 1, 16, 32) and found["body"].dtype == torch.bool
    assert found["body"].any() and not found["body"].all()
    with pytest.raises(KeyError, match="age"):
        probe_context(("age",), image)


def test_a_file_that_disagrees_is_not_kept(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (model / "model.ts").write_bytes(b"an earlier export")
    honest = FORMATS["torchscript"]

    def load(path: Path, device: str) -> Any:
        run, metadata = honest.load(path, device)
        return lambda image: (*run(image)[:1], run(image)[1] + 0.01, *run(image)[2:]), metadata

    monkeypatch.setattr(export, "FORMATS", {"torchscript": honest._replace(load=load)})
    with pytest.raises(ParityError, match="does not score like the model and was not kept"):
        export_model(model, "torchscript")
    assert (model / "model.ts").read_bytes() == b"an earlier export"
    assert sorted(path.name for path in model.iterdir()) == ["model.pt", "model.ts"]


@pytest.mark.parametrize(
    "spoilt", ["anomaly_map", "score", "percentile", "flagged", "nan", "shape"]
)
def test_every_output_is_compared(spoilt: str, model: Path, make_images: MakeImages) -> None:
    scorer, image = load_scorer(read_model(model)), make_images(3, seed=1)
    with torch.no_grad():
        scores = scorer.score_image(image)
    found = {name: getattr(scores, name).clone() for name in export.OUTPUTS}
    assert compare(scorer, image, tuple(found.values())).agrees
    if spoilt == "flagged":
        found["flagged"] = ~found["flagged"]
    elif spoilt == "nan":
        found["score"][0] = float("nan")
    elif spoilt == "shape":
        found["score"] = found["score"][:1]
    else:
        found[spoilt][-1] += 0.5
    assert not compare(scorer, image, tuple(found.values())).agrees


def test_a_decision_within_rounding_of_the_threshold_passes(
    model: Path, make_images: MakeImages
) -> None:
    scorer, image = load_scorer(read_model(model)), make_images(1, seed=1)
    with torch.no_grad():
        scores = scorer.score_image(image)
    found = (scores.anomaly_map, scores.score, scores.percentile, ~scores.flagged)
    assert not compare(scorer, image, found).agrees
    scorer.calibration.threshold.copy_(scores.score[0] + (-1e-5 if scores.flagged[0] else 1e-5))
    assert compare(scorer, image, found).agrees


def test_the_probes_hold_extremes_in_several_batch_sizes() -> None:
    batches = list(probe_images(2, (16, 32)))
    assert {len(batch) for batch in batches} == {1, 2, 5}
    every = torch.cat(batches)
    assert every.shape[1:] == (2, 16, 32) and every.min() == 0 and every.max() == 1
    assert any((one == 0).all() for one in every) and any((one == 1).all() for one in every)
    again = probe_images(2, (16, 32))
    assert all(torch.equal(a, b) for a, b in zip(batches, again, strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "onx"], "--format: expected one of onnx.*Did you mean 'onnx'"),
        (["--format", "torchscript", "--output", "{tmp}/model.pt"], "ends in .ts"),
        (["--format", "torchscript", "--device", "abacus"], "--device: 'abacus' is not available"),
        (["--format", "torchscript", "--ckpt_dir", "{tmp}"], "there is no model file"),
    ],
)
def test_mistakes_are_told(
    options: list[str],
    message: str,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    filled = [option.replace("{tmp}", str(tmp_path)) for option in options]
    with pytest.raises(SystemExit, match="1"):
        main(["--ckpt_dir", str(model), *filled])
    told = capsys.readouterr().err
    assert told.startswith("Error: ")
    with pytest.raises(InputError, match=message):
        raise InputError(told)
    assert [path.name for path in model.iterdir()] == ["model.pt"]


def test_missing_packages_are_told(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    there = {"onnx": True, "onnxruntime": True, "onnxscript": False}  # whatever is installed here

    def find(name: str) -> object:
        return (
            found("torch" if there[name] else "no_such_package") if name in there else found(name)
        )

    monkeypatch.setattr(importlib.util, "find_spec", find)
    with pytest.raises(
        InputError, match=r"package\(s\) onnxscript, which are not installed.*\[export\]"
    ):
        export_model(model, "onnx")
    assert [path.name for path in model.iterdir()] == ["model.pt"]


def test_the_command_ends_in_one_line(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new folder" / "m.ts"
    main(["--ckpt_dir", str(model), "--format", "torchscript", "--output", str(output)])
    told = capsys.readouterr()
    (line,) = told.out.splitlines()
    assert output.is_file() and told.err == ""
    assert str(output) in line and "24 images in batches of 1, 2, 5" in line


@pytest.mark.gpu
@pytest.mark.parametrize("name", list(FORMATS))
def test_a_file_for_a_gpu_scores_like_the_model(name: str, model: Path) -> None:
    need(name)
    assert export_model(model, name, device="cuda").parity.agrees
