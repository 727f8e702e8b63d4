"""Panels, curves and histograms."""

import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from pipelines.outputs import pictures
from pipelines.outputs.examples import Example
from pipelines.outputs.pictures import save_curves, save_histogram, save_panels, save_regions


@pytest.fixture(autouse=True)
def _no_figure_left_open_nor_warned_of() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield
    assert plt.get_fignums() == []


@pytest.fixture
def example() -> Example:
    rng = np.random.default_rng(0)
    image = rng.uniform(size=(16, 16)).astype(np.float32)
    maps = {name: 10 * image for name in ("anomaly_map", "flow16", "recon", "head")}
    half = (image / 2).astype(np.float32)
    return Example("detected", "case", 3, 4.2, image, half, maps, image > 0.5)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def test_regions_are_outlined(tmp_path: Path) -> None:
    image, region = np.full((16, 16), 0.5, np.float32), np.zeros((16, 16), bool)
    region[4:12, 4:12] = True
    outlined, bare, many = (tmp_path / f"{name}.png" for name in ("outlined", "bare", "many"))
    save_regions(outlined, [(image, region)])
    save_regions(bare, [(image, np.ones_like(region))])
    blue = [(p[..., 2] - p[..., 0] > 60).sum() for p in map(pixels, (outlined, bare))]
    assert blue[0] > 50 > 0 == blue[1]
    save_regions(many, [(image, region)] * 10)
    assert pixels(many).shape[0] > 1.8 * pixels(outlined).shape[0]
    save_regions(tmp_path / "none.png", [])
    assert not (tmp_path / "none.png").exists()


def test_panels_show_every_example(tmp_path: Path, example: Example) -> None:
    one, two = tmp_path / "one.png", tmp_path / "deep" / "two.png"
    save_panels(one, [example], note="computer-made phantoms")
    save_panels(two, [example, replace(example, kind="missed", mask=None, index=0)])
    assert pixels(two).shape[0] > 1.6 * pixels(one).shape[0]
    assert pixels(one).std() > 10
    # No column that is empty in all rows.
    for name, mask in (("bare", None), ("empty", np.zeros((16, 16), bool))):
        save_panels(tmp_path / f"{name}.png", [replace(example, mask=mask)])
        assert pixels(tmp_path / f"{name}.png").shape[1] < pixels(one).shape[1]


def test_many_maps_take_more_lines(tmp_path: Path, example: Example) -> None:
    many = replace(example, maps={f"part{n}": example.image for n in range(6)} | example.maps)
    save_panels(tmp_path / "few.png", [example])
    save_panels(tmp_path / "many.png", [many])
    few, more = pixels(tmp_path / "few.png"), pixels(tmp_path / "many.png")
    assert more.shape[1] <= few.shape[1] and more.shape[0] > 1.6 * few.shape[0]


def test_maps_share_one_fixed_scale(tmp_path: Path, example: Example) -> None:
    # Stretched to its own range, a normal image's map would glow.
    quiet = replace(example, maps={name: 0.01 * value for name, value in example.maps.items()})
    loud, dark = tmp_path / "loud.png", tmp_path / "dark.png"
    save_panels(loud, [example])
    save_panels(dark, [quiet])
    assert pixels(loud).mean() > pixels(dark).mean() + 10


def test_curves_show_training_and_held_out(tmp_path: Path) -> None:
    history = [
        {f"{part}_{name}": 1.0 / epoch for part in ("train", "val") for name in names}
        for epoch, names in enumerate([("loss", "flow_loss", "recon_loss")] * 3, start=1)
    ]
    save_curves(tmp_path / "curves.png", history)
    training = [{k: v for k, v in epoch.items() if k.startswith("train")} for epoch in history]
    save_curves(tmp_path / "training.png", training)  # without a validation
    both, alone = pixels(tmp_path / "curves.png"), pixels(tmp_path / "training.png")
    assert both.shape == alone.shape and (both != alone).any()
    partial = [history[0], training[1], history[2]]  # validated every other epoch
    save_curves(tmp_path / "partial.png", partial)
    assert (tmp_path / "partial.png").exists()


@pytest.mark.parametrize(
    ("normal", "anomalous", "threshold"),
    [([0.1, 0.5, -1.0], [2.0, 80.0], 1.5), ([0.0], [], 3.0), ([], [5.0], 1.0)],
)
def test_a_histogram_shows_both_groups(
    tmp_path: Path, normal: list[float], anomalous: list[float], threshold: float
) -> None:
    save_histogram(tmp_path / "scores.png", normal, anomalous, threshold)
    assert pixels(tmp_path / "scores.png").std() > 5


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """What is saved."""
    saved: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: saved.append(self))
    monkeypatch.setattr(pictures, "replacing", lambda path: nullcontext(path))
    return saved


def test_scores_beyond_the_axis_are_told(figures: list[Figure]) -> None:
    save_histogram(Path(), [0.0] * 200, [2.0, 80.0], 1.5)
    save_histogram(Path(), [0.0] * 200, [2.0], 1.5, reference=[0.5, 1.0])
    told = [figure.axes[0].get_title(loc="right") for figure in figures]
    assert told == ["scores above 2.0, up to 80.0, lie in the last bar", ""]


def test_terms_that_a_method_lacks_have_no_axes(figures: list[Figure]) -> None:
    save_curves(Path(), [{"train_loss": 1.0, "val_recon_loss": 2.0, "train_flow_loss": np.nan}])
    assert [axis.get_title()[:5] for axis in figures[0].axes] == ["loss", "recon"]


def test_nothing_to_show_writes_nothing(tmp_path: Path) -> None:
    save_panels(tmp_path / "examples.png", [])
    save_curves(tmp_path / "curves.png", [])
    save_histogram(tmp_path / "scores.png", [], [], 1.0)
    assert list(tmp_path.iterdir()) == []
