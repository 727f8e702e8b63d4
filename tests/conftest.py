"""What the tests of several rooms share: tiny images, networks and data sets."""

import copy
import os
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import Tensor

from networks import AEFlow, AnomalyScorer, Detector, build_aeflow, make_fusion
from networks.detectors.aeflow import AEFlowDetector
from networks.detectors.donut import DonutDetector
from networks.scope import Scope
from networks.spatial import resized
from pipelines.data.cases import Case
from pipelines.data.datasets import NormalSlices, slice_loader
from pipelines.data.signals import SignalLoader
from pipelines.data.slices import CaseLoader, CaseSample
from pipelines.scoring.calibration import Calibrator
from pipelines.scoring.cases import ScoredCase
from pipelines.scoring.model_file import MODEL_NAME, save_model
from pipelines.scoring.patches import make_scorer as scorer_of
from pipelines.scoring.volume import CaseScore
from pipelines.training.batches import NormalBatches
from tests.graphs import fake_graphs as fake_graphs

MakeImages = Callable[..., Tensor]
MakeScorer = Callable[..., AnomalyScorer]
MakeSlices = Callable[..., NormalSlices]
Calibrate = Callable[[AnomalyScorer, Tensor], AnomalyScorer]
WriteVolume = Callable[..., Path]
FakeScored = Callable[..., ScoredCase]
WriteModel = Callable[..., dict[str, Any]]

ROOT = Path(__file__).parents[1]
WEIGHTS = {"flow": 0.45, "recon": 0.05, "head": 0.5}
PLACED = {"flow": 0.4, "recon": 0.1, "bright": 0.3, "dark": 0.2}
"""Weights for a detector with a normative map."""

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
DRIVER = shutil.which("chromedriver")
BROWSER_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist",
    "--window-size=1280,900", "about:blank",
)  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    """Tests that run side by side take one thread each, and so do the programs they start."""
    if hasattr(config, "workerinput"):
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        torch.set_num_threads(1)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests of a GPU are skipped without one."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture(autouse=True)
def _seeds() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_tracking_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # so that what a test leaves behind is undone
    monkeypatch.delenv("MLFLOW_TRACKING_URI")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium without a window, as Selenium drives it; WebGL is computed by the processor."""
    if not (BROWSER and DRIVER):
        pytest.skip("needs Chromium and its driver")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (*BROWSER_FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(executable_path=DRIVER)
    driver = webdriver.Chrome(service=service, options=options)
    yield driver
    driver.quit()


@pytest.fixture
def make_images() -> MakeImages:
    """Bodies on a background of exactly 0: `(count, channels, height, width)` in [0, 1].

    With a depth patches of volumes, `(count, channels, depth, height, width)`.
    """

    def make(
        count: int = 4,
        channels: int = 1,
        height: int = 32,
        width: int = 32,
        seed: int = 0,
        depth: int | None = None,
    ) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        size = [one for one in (depth, height, width) if one is not None]
        coarse = torch.rand(count, channels, *[6] * len(size), generator=generator)
        smooth = resized(coarse, size)
        rows = torch.linspace(-1, 1, height).view(-1, 1)
        columns = torch.linspace(-1, 1, width).view(1, -1)
        body = (rows**2 + columns**2 < 0.8).float()
        return (0.2 + 0.6 * smooth) * body

    return make


@cache
def _network(channels: int, with_head: bool, strides: tuple[int, ...], dims: int) -> AEFlow:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_aeflow(
            in_channels=channels,
            flow_strides=strides,
            flow_steps=2,
            hidden=8,
            decoder_width=4,
            with_head=with_head,
            spatial_dims=dims,
        )
        with torch.no_grad():  # couplings start as the identity, which would hide mistakes
            for parameter in network.flows.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    return network


@pytest.fixture
def make_scorer() -> MakeScorer:
    """Tiny scorers with random flows, not calibrated; with a patch size of volumes."""

    def make(
        channels: int = 1,
        with_head: bool = False,
        strides: tuple[int, ...] = (8,),
        score: str = "fused",
        weights: dict[str, float] = WEIGHTS,
        map_weights: dict[str, float] = WEIGHTS,
        beta: float = 0.9,
        patch_size: tuple[int, ...] | None = None,
        **settings: Any,
    ) -> AnomalyScorer:
        dims = 2 if patch_size is None else 3
        network = copy.deepcopy(_network(channels, with_head, strides, dims))
        detector = AEFlowDetector(network, **settings)
        if detector.normative is not None:
            detector.normative.mean.uniform_(0.2, 0.8)
            detector.normative.std.uniform_(0.1, 0.3)
        fusion = make_fusion(score, weights, map_weights, beta)
        return scorer_of(detector, fusion, patch_size=patch_size).eval()

    return make


@pytest.fixture
def make_slices() -> MakeSlices:
    """A data set of given images `(N, C, *s)`, one case each, perhaps with places in a body."""

    def make(images: Tensor, placed: bool = False) -> NormalSlices:
        cases = [Case(f"case{i:03d}", f"patient{i}", ()) for i in range(len(images))]
        everything = {"body": (images > 0).any(dim=1, keepdim=True)}
        if placed:
            lengths = images.shape[2:-2].numel() + sum(images.shape[-2:])
            everything["place"] = torch.rand(len(images), lengths)

        def cut(case: Case) -> Any:
            one = int(case.name.removeprefix("case"))
            context = {name: value[one : one + 1] for name, value in everything.items()}
            image = images[one : one + 1]
            return SimpleNamespace(
                images=image, labels=torch.zeros(1), indices=torch.zeros(1).long(), context=context
            )

        return NormalSlices(cases, cut)  # type: ignore[arg-type]

    return make


@pytest.fixture
def calibrate(make_slices: MakeSlices) -> Calibrate:
    """Calibrates a scorer on images at a false-positive rate of 0.2."""

    def run(scorer: AnomalyScorer, images: Tensor) -> AnomalyScorer:
        dataset = make_slices(images, "place" in scorer.detector.needs)
        Detector.prepare(scorer.detector, NormalBatches(dataset), None)
        Calibrator(scorer, slice_loader(dataset, 4), "cpu", target_fpr=0.2).run()
        return scorer

    return run


@pytest.fixture
def write_volume(tmp_path: Path) -> WriteVolume:
    """Writes a NIfTI volume `(X, Y, Z)` with a zero background, or a mask of one."""

    def write(
        name: str,
        values: np.ndarray[Any, Any] | None = None,
        shape: Sequence[int] = (24, 24, 6),
        seed: int = 0,
        affine: np.ndarray[Any, Any] | None = None,
    ) -> Path:
        if values is None:
            rng = np.random.default_rng(seed)
            values = rng.normal(100, 20, shape).clip(1).astype(np.float32)
            values[:3] = values[-3:] = values[:, :3] = values[:, -3:] = 0
        path = tmp_path / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(values, np.eye(4) if affine is None else affine), path)
        return path

    return write


def any_scope(channels: int = 1, spatial_dims: int = 2) -> dict[str, Tensor]:
    """The state of a scope that every image is in."""
    scope = Scope(channels, spatial_dims)
    scope.limits.fill_(1e9)
    return dict(scope.state_dict())


@pytest.fixture
def model_facts() -> dict[str, Any]:
    """What a model file holds beside the scorer."""
    return {
        "case_scores": [],
        "case_weights": [],
        "target_fpr": 0.05,
        "scope": any_scope(),
        "preprocessing": CaseLoader(32, volumetric=True).parameters,
        "modalities": ["flair"],
        "volumetric": True,
        "layout": "folder",
        "split": {"train": [], "calibration": [], "test": []},
        "seen": [],
        "fingerprint": "0123456789abcdef",
        "notes": [],
        "versions": {"torch": "2"},
        "created": "2026-01-01T00:00:00+0000",
    }


@pytest.fixture
def write_model(
    tmp_path: Path,
    make_scorer: MakeScorer,
    make_images: MakeImages,
    calibrate: Calibrate,
    model_facts: dict[str, Any],
) -> WriteModel:
    """Writes a calibrated model and gives the content of its file, but for the weights."""

    def write(
        folder: str = "models",
        channels: int = 1,
        normative: bool | None = None,
        patch_size: tuple[int, ...] | None = None,
        **facts: Any,
    ) -> dict[str, Any]:
        how = {"weights": PLACED, "map_weights": PLACED} if normative else {}
        scorer = make_scorer(channels, normative=normative, patch_size=patch_size, **how)
        calibrate(scorer, make_images(6, channels, depth=patch_size and patch_size[0]))
        volumetric = facts.get("volumetric", True)
        loader = CaseLoader(32, channels=channels, volumetric=volumetric, patch_size=patch_size)
        content: dict[str, Any] = {
            **model_facts,
            "case_scores": [0.0, 0.5, 1.0],
            "case_weights": [1.0, 1.0, 1.0],
            "scope": any_scope(channels),
            "preprocessing": loader.parameters,
            "volumetric": volumetric,
            **facts,
        }
        save_model(tmp_path / folder / MODEL_NAME, scorer, content)
        return content

    return write


@pytest.fixture
def write_signal_model(
    tmp_path: Path, calibrate: Calibrate, model_facts: dict[str, Any]
) -> WriteModel:
    """Writes a calibrated Donut of two channels, windows of 64 samples, as `write_model` does."""

    def write(folder: str = "models", **facts: Any) -> dict[str, Any]:
        detector = DonutDetector(2, 64, hidden=(16,), latent=2, samples=8, steps=1)
        scorer = calibrate(AnomalyScorer(detector, make_fusion()).eval(), torch.rand(6, 2, 64))
        loader = SignalLoader(64, modalities=("load", "rate"), limits=[(-1, 1)] * 2, season=20)
        content: dict[str, Any] = {
            **model_facts,
            "case_scores": [0.0, 0.5, 1.0],
            "case_weights": [1.0, 1.0, 1.0],
            "scope": any_scope(2, 1),
            "preprocessing": loader.parameters,
            "modalities": ["load", "rate"],
            "layout": "signals",
            **facts,
        }
        save_model(tmp_path / folder / MODEL_NAME, scorer, content)
        return content

    return write


@pytest.fixture
def fake_scored() -> FakeScored:
    """Scores of a sample without a network: given ones, or 0, 1, 2, ... for its slices."""

    def fake(
        sample: CaseSample,
        scores: Sequence[float] | None = None,
        anomaly_map: np.ndarray[Any, Any] | None = None,
        threshold: float = 3.5,
        **whole: Any,
    ) -> ScoredCase:
        count = len(sample.images)
        score = np.arange(float(count)) if scores is None else np.array(scores, dtype=float)
        if anomaly_map is None:
            anomaly_map = np.zeros((count, *sample.body.shape[1:]))
        first = sample.images[:, 0]
        canvas = torch.arange(float(count)).view(-1, *[1] * (first.ndim - 1)).expand(first.shape)
        told: dict[str, Any] = {
            "score": float(score.max()),
            "parts": {"flow": 1.0, "recon": 2.0},
            "percentile": 50.0,
            "p_value": 0.5,
            "flagged": bool(score.max() > threshold),
            "threshold": threshold,
            "target_fpr": 0.05,
            "n_normal": 20,
        }
        return ScoredCase(
            sample=sample,
            scores={
                "score": score,
                "percentile": np.full(count, 50.0),
                "p_value": np.full(count, 0.5),
            },
            parts={"flow": score + 1, "recon": score - 1},
            flagged=score > threshold,
            anomaly_map=anomaly_map.astype(np.float32),
            canvas_maps={"anomaly_map": canvas, "map_recon": canvas + 1},
            reconstruction=canvas[:, None] + 0.5,
            case_score=CaseScore(**{**told, **whole}),
        )

    return fake


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with the toys among its methods and configs."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("networks", "transforms", "pipelines", "bundles/aeflow"):
        ignored = shutil.ignore_patterns("__pycache__", "output", "models", "evaluation")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    toys = ROOT / "tests" / "networks" / "detectors" / "toys"
    for toy in toys.glob("*.py"):
        shutil.copy(toy, folder / "networks" / "detectors")
    for config in toys.glob("*.json"):
        shutil.copy(config, folder / "bundles" / "aeflow")
    return folder
