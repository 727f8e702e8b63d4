"""One tiny training, shared by the tests of the bundle."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import run

from pipelines.common.options import find_mistake
from pipelines.data.phantom.writer import ensure_phantom_dataset
from pipelines.metrics.pixel import pixel_metrics
from pipelines.scoring import detection

BUNDLE = Path(__file__).parents[2] / "bundles" / "aeflow"
TINY: dict[str, Any] = {
    "image_size": 32,
    "flow_steps": 2,
    "decoder_width": 4,
    "pretrain_epochs": 1,
    "pretrain_epoch_size": 32,
    "pretrain_batch_size": 16,
    "max_epochs": 2,
    "batch_size": 16,
    "target_fpr": 0.2,
}


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms")
    return ensure_phantom_dataset(folder, patients=6, size=(64, 64, 24))


@pytest.fixture(scope="session")
def mistake_of() -> Callable[..., str]:
    """Runs a bundle's config that must end with a user's mistake, and gives its message."""

    def attempt(run_id: str, config: str, **options: Any) -> str:
        with pytest.raises(Exception) as caught:  # noqa: B017
            run(run_id, config_file=str(BUNDLE / config), **options)
        mistake = find_mistake(caught.value)
        assert mistake is not None, caught.value
        return mistake

    return attempt


@pytest.fixture(autouse=True, scope="session")
def _few_resamples() -> Iterator[None]:
    """Intervals and synthetic anomalies need most of an evaluation's time; few of them do here."""
    defaults: dict[str, Any] = pixel_metrics.__kwdefaults__ or {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(defaults, "resamples", 50)
        patch.setattr(detection, "MOST_IMAGES", 2)
        yield


@pytest.fixture(autouse=True, scope="session")
def _own_excepthook() -> Iterator[None]:
    hook = sys.excepthook
    yield
    sys.excepthook = hook


@pytest.fixture(scope="session")
def train() -> Callable[..., None]:
    """Trains on a folder of data and writes ``output`` and ``models`` into another folder."""
    return _train


@pytest.fixture(scope="session")
def trained(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished training."""
    folder = tmp_path_factory.mktemp("trained")
    _train(phantoms, folder)
    return folder


def _train(dataset_dir: Path, folder: Path, **options: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        folder.mkdir(exist_ok=True)
        patch.chdir(folder)  # home of the default database
        run(
            "training",
            config_file=str(BUNDLE / "train.json"),
            dataset_dir=str(dataset_dir),
            output_dir=str(folder / "output"),
            ckpt_dir=str(folder / "models"),
            **{**TINY, **options},
        )
