"""A package as MONAI's model zoo and the Hugging Face hub take it, by their own functions."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from monai.bundle import (
    ConfigWorkflow,
    ckpt_export,
    download_large_files,
    push_to_hf_hub,
    scripts,
    verify_metadata,
    verify_net_in_out,
)
from torch import Tensor

from pipelines.data import seen_size
from pipelines.export import package
from pipelines.export.formats import check_parity
from pipelines.export.package import LARGE_FILES, main, package_bundle
from pipelines.scoring.model_file import load_scorer, read_model
from pipelines.scoring.packing import packed

BUNDLE = Path(__file__).parents[3] / "bundles" / "aeflow"
WriteModel = Callable[..., dict[str, Any]]

REQUIRED = [
    *("schema", "version", "monai_version", "pytorch_version", "numpy_version"),
    *("required_packages_version", "task", "description", "authors", "copyright"),
    "network_data_format",
]
"""Of the metadata, by the schema that they name, which would have to be downloaded."""


def verify(bundle: Path) -> Path:
    """The steps of the zoo's ``ci/verify_bundle.py``; gives the script that it exports."""
    for name in ("LICENSE", "configs/metadata.json", "configs/inference.json", "models/model.pt"):
        assert (bundle / name).is_file(), name
    meta_file = bundle / "configs" / "metadata.json"
    metadata = json.loads(meta_file.read_text())
    assert metadata["name"] and metadata["version"] in metadata["changelog"]
    schema = bundle / "eval" / "schema.json"
    schema.parent.mkdir()
    schema.write_text(json.dumps({"type": "object", "required": REQUIRED}))
    verify_metadata(meta_file=str(meta_file), filepath=str(schema))
    given = {
        "net_id": "network_def",
        "meta_file": str(meta_file),
        "config_file": str(bundle / "configs" / "inference.json"),
        "bundle_root": str(bundle),
    }
    verify_net_in_out(**given)
    exported = bundle / "models" / "verify_model.ts"
    ckpt_export(**given, filepath=str(exported), ckpt_file=str(bundle / "models" / "model.pt"))
    return exported


@pytest.mark.parametrize(
    ("kind", "needs"),
    [("volumes", ("body", "place")), ("channels", ()), ("patches", ()), ("signals", ("body",))],
)
def test_a_package_passes_the_zoo_s_checks(
    kind: str,
    needs: tuple[str, ...],
    write_model: WriteModel,
    write_signal_model: WriteModel,
    tmp_path: Path,
) -> None:
    content = {
        "volumes": lambda: write_model(normative=True),
        "channels": lambda: write_model(channels=2, modalities=["flair", "t2"]),
        "patches": lambda: write_model(patch_size=(16, 32, 32)),
        "signals": write_signal_model,
    }[kind]()
    package_bundle(BUNDLE, tmp_path / "models", tmp_path / "zoo" / "aeflow")
    module = torch.jit.load(verify(tmp_path / "zoo" / "aeflow"), map_location="cpu")
    scorer = load_scorer(read_model(tmp_path / "models"))
    assert scorer.detector.needs == needs

    def run(image: Tensor, *context: Tensor) -> Any:
        return module(packed(image, dict(zip(needs, context, strict=True)), scorer.detector))

    with torch.no_grad():
        assert check_parity(scorer, run, seen_size(content)).agrees


def test_a_unit_test_in_the_zoo_s_form(
    write_model: WriteModel,
    write_volume: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(sys, "path", [*sys.path])
    write_model()
    bundle = tmp_path / "zoo" / "aeflow"
    package_bundle(BUNDLE, tmp_path / "models", bundle)
    data = write_volume("data/scan").parent
    workflow = ConfigWorkflow(
        workflow_type="infer",
        config_file=str(bundle / "configs" / "inference.json"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        logging_file=False,
        bundle_root=str(bundle),
        dataset_dir=str(data),
    )
    workflow.initialize()
    assert workflow.check_properties() == []
    workflow.run()
    workflow.finalize()
    assert (bundle / "inference" / "scores.csv").is_file()


def test_a_large_model_file_is_listed(
    write_model: WriteModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_model()
    given = [str(BUNDLE), "--ckpt_dir", str(tmp_path / "models"), "--output"]
    main([*given, str(tmp_path / "small")])
    assert not (tmp_path / "small" / LARGE_FILES).exists()
    assert LARGE_FILES not in capsys.readouterr().out
    monkeypatch.setattr(package, "ZOO_LIMIT", 1000)
    main([*given, str(tmp_path / "large")])
    assert f"put its address into {LARGE_FILES}" in capsys.readouterr().out
    bundle = tmp_path / "large"
    download_large_files(bundle_path=str(bundle))  # it is there
    with (bundle / "models" / "model.pt").open("ab") as file:
        file.write(b"more")
    with pytest.raises(Exception, match="check of existing file failed"):
        download_large_files(bundle_path=str(bundle))


def test_the_hub_gets_card_and_licence(
    write_model: WriteModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model()
    package_bundle(BUNDLE, tmp_path / "models", tmp_path / "aeflow")
    cards = []

    class Hub:
        def create_repo(self, repo_id: str, **_: Any) -> None:
            assert repo_id == "someone/aeflow"

        def upload_folder(self, repo_id: str, folder_path: str) -> str:
            cards.append((Path(folder_path) / "README.md").read_text())
            return repo_id

    monkeypatch.setattr(scripts, "huggingface_hub", SimpleNamespace(HfApi=lambda token: Hub()))
    push_to_hf_hub(repo="someone/aeflow", name="aeflow", bundle_dir=str(tmp_path))
    (card,) = cards
    front = card.split("---")[1]
    assert "library_name: monai" in front and "license: apache-2.0" in front
    assert "## This package" in card and "](" not in card
