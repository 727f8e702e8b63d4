"""A tiny report with something in every section."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from pipelines.metrics.pixel import PixelHistogram
from pipelines.metrics.rows import ScoreRow
from pipelines.metrics.summary import summarize
from pipelines.metrics.verdict import verdict
from pipelines.outputs.examples import Example
from pipelines.report import ReportContent, ViewerVolume, write_report

HOSTILE = "<script>alert('case')</script>"


def make_rows() -> list[ScoreRow]:
    rng = np.random.default_rng(0)
    rows = []
    for number in range(40):
        label = number % 2
        score = float(rng.normal(2 * label))
        row = ScoreRow(
            case=HOSTILE if number == 3 else f"case{number}",
            patient=f"secret{number // 2}",
            level="slice",
            slice=number,
            label=label,
            score=score,
            parts={"flow": 0.1, "recon": 0.2},
            percentile=50.0,
            flagged=score > 1.5,
            baselines={"sharpness": -1.0 - number / 100, "intensity": float(rng.normal(label))},
        )
        rows.append(row)
    whole = replace(rows[0], level="volume", slice=None)
    return [*rows, replace(whole, case=HOSTILE), replace(whole, case="second")]


def make_volume(name: str = HOSTILE) -> ViewerVolume:
    x, y, z = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in (16, 20, 12)), indexing="ij")
    image = x + 10 * y + 100 * z
    anomaly_map = np.where((abs(x - 5) < 3) & (abs(y - 12) < 3), z / 2, 0).astype(np.float32)
    affine = np.diag([-1.0, 1.0, 2.0, 1.0])
    return ViewerVolume(name, image, anomaly_map, anomaly_map > 4, affine, "score 3.2, flagged")


def make_marked() -> ViewerVolume:
    """Bright and strange at the right, front and top of the patient; oblique, stored as P, I, R."""
    image = np.zeros((12, 16, 10), np.float32)
    image[2:11, 2:14, 1:9] = 100
    image[8:10, 11:13, 6:8] = 1000
    to_file = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt("PIR")
    )
    stored = nib.apply_orientation(image, to_file)
    turn = Rotation.from_euler("xyz", (10, 15, 20), degrees=True).as_matrix()
    ras = np.eye(4)
    ras[:3, :3] = turn * (1.0, 1.0, 3.0)
    affine = ras @ nib.orientations.inv_ornt_aff(to_file, image.shape)
    scores = {number: 4.0 if number == 2 else number / 10 for number in range(8)}
    strange = (stored > 500) * np.float32(5)
    return ViewerVolume(
        "second", stored, strange, None, affine, "score 4.0, flagged", scores, "axial"
    )


def make_content() -> ReportContent:
    rows = make_rows()
    metrics = summarize(
        rows,
        PixelHistogram(),
        {},
        threshold=1.5,
        pixel_threshold=2.0,
        volumetric=True,
    )
    image = np.random.default_rng(0).uniform(size=(12, 12)).astype(np.float32)
    maps = {"anomaly_map": 5 * image, "recon": image}
    kinds = ("detected", "missed", "false alarm")
    examples = [Example(kind, HOSTILE, 3, 2.5, image, image, maps, None) for kind in kinds]
    return ReportContent(
        title="Evaluation",
        rows=rows,
        metrics=metrics,
        verdict=verdict(metrics),
        threshold=1.5,
        target_fpr=0.05,
        n_normal=50,
        n_patients=20,
        stability=[
            {"change": "none", "flagged": 0.05, "changed": 0.0, "score": 0.0, "flow_score": 0.0},
            {"change": "blur", "flagged": 0.1, "changed": 0.05, "score": 0.3, "flow_score": -1.0},
        ],
        quantiles=np.linspace(-2, 2.5, 1001),
        history=[{"train_loss": 1.0, "val_loss": 1.2}, {"train_loss": 0.5, "val_loss": 0.9}],
        regions=[(image, image > 0.5)] * 3,
        examples=examples,
        volumes=[make_volume(), make_marked()],
        failures=[{"case": HOSTILE, "reason": "The file is damaged."}],
        about={
            "layout": "brats",
            "versions": {"torch": "2.13"},
            "options": dict.fromkeys("abcdef"),
        },
        notes=["Phantoms say nothing of real scans.", HOSTILE],
        volumetric=True,
        thumbnails={HOSTILE: b"a JPEG"},
    )


@pytest.fixture(scope="session")
def full_content() -> ReportContent:
    return make_content()


@pytest.fixture(scope="session")
def report_folder(full_content: ReportContent, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    assert write_report(folder, full_content) == folder / "report.html"
    return folder


@pytest.fixture(scope="session")
def volume_of() -> Callable[..., ViewerVolume]:
    return make_volume
