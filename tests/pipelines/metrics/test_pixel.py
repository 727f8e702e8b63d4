"""Pixel metrics from histograms."""

import json

import numpy as np
import pytest
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    precision_recall_curve,
    recall_score,
    roc_auc_score,
)

from pipelines.metrics import pixel as module
from pipelines.metrics.figure import Figure
from pipelines.metrics.pixel import PixelHistogram, default_edges, patient_dice
from transforms.errors import InputError

THRESHOLD = 1.0


def pixel_metrics(
    histogram: PixelHistogram, threshold: float, resamples: int = 10, seed: int = 0
) -> dict[str, Figure]:
    return module.pixel_metrics(histogram, threshold, resamples=resamples, seed=seed)


def images(count: int = 10, size: int = 48) -> list[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    found = []
    for index in range(count):
        mask = np.zeros((size, size), bool)
        if index % 4:
            row, column = rng.integers(0, size - 16, 2)
            mask[row : row + 6 + index, column : column + 9] = True
        valid = np.ones_like(mask)
        valid[:4] = False
        anomaly_map = (rng.standard_t(3, mask.shape) + 1.5 * mask).astype(np.float32)
        found.append((f"p{index // 2}", anomaly_map, mask, valid))
    return found


def filled(threshold: float | None = THRESHOLD) -> PixelHistogram:
    histogram = PixelHistogram(default_edges(threshold=threshold))
    for image in images():
        histogram.add(*image)
    return histogram


def test_values_equal_sklearn_on_the_pixels_themselves() -> None:
    scores = np.concatenate([values[valid] for _, values, _, valid in images()])
    truth = np.concatenate([mask[valid] for _, _, mask, valid in images()])
    found = pixel_metrics(filled(), THRESHOLD)
    flagged = scores > THRESHOLD
    precision, recall, _ = precision_recall_curve(truth, scores)
    binned = {
        "pixel_ap": average_precision_score(truth, scores),
        "pixel_auroc": roc_auc_score(truth, scores),
        "dice_oracle": np.max(2 * precision * recall / np.maximum(precision + recall, 1e-12)),
    }
    exact = {
        "dice_at_threshold": f1_score(truth, flagged),
        "pixel_sensitivity": recall_score(truth, flagged),
        "pixel_specificity": recall_score(~truth, ~flagged),
    }
    for name, value in binned.items():
        assert found[name].value == pytest.approx(value, abs=1e-3), name
    for name, value in exact.items():
        assert found[name].value == pytest.approx(value, abs=1e-12), name


def test_perfect_map() -> None:
    histogram = PixelHistogram(default_edges())
    for patient, _, mask, _ in images():
        histogram.add(patient, mask * 10.0, mask)
    found = pixel_metrics(histogram, 5.0)
    assert {figure.value for figure in found.values()} == {1.0}


def test_constant_map() -> None:
    histogram = PixelHistogram(default_edges())
    for patient, _, mask, _ in images():
        histogram.add(patient, np.zeros(mask.shape), mask)
    prevalence = np.mean([mask for _, _, mask, _ in images()])
    found = pixel_metrics(histogram, 5.0)
    assert found["pixel_ap"].value == pytest.approx(prevalence)
    assert found["pixel_auroc"].value == pytest.approx(0.5)
    assert found["aupro_03"].value == pytest.approx(0.15)
    assert found["dice_oracle"].value == pytest.approx(2 * prevalence / (1 + prevalence))
    assert found["dice_at_threshold"].value == 0
    assert found["pixel_specificity"].value == 1


def test_aupro_weighs_small_and_large_regions_alike() -> None:
    # A large region found at once and a small one never found before all is flagged: the overlap
    # is 1/2 at rate 0 and rises to 1 at rate 1, so its mean up to 0.3 is 0.5 + 0.5 * 0.3 / 2.
    mask = np.zeros((40, 40), bool)
    mask[2:22, 2:22] = True
    mask[30:33, 30:33] = True
    anomaly_map = np.zeros(mask.shape)
    anomaly_map[2:22, 2:22] = 3
    histogram = PixelHistogram(default_edges())
    histogram.add("a", anomaly_map, mask)
    assert pixel_metrics(histogram, 1.0)["aupro_03"].value == pytest.approx(0.575)


def test_aupro_of_a_square_found_half_overlapping() -> None:
    # 100 of 200 flagged pixels lie in the mask of 200; 1,000 normal pixels: the curve passes
    # (0, 0), (0.1, 0.5) and (1, 1).
    mask = np.zeros((30, 40), bool)
    mask[:10, :20] = True
    anomaly_map = np.zeros(mask.shape)
    anomaly_map[:10, 10:30] = 2
    histogram = PixelHistogram(default_edges())
    histogram.add("a", anomaly_map, mask)
    at_limit = 0.5 + 0.5 * 0.2 / 0.9
    expected = (0.1 * 0.25 + 0.2 * (0.5 + at_limit) / 2) / 0.3
    assert pixel_metrics(histogram, 1.0)["aupro_03"].value == pytest.approx(expected)


def test_regions_touching_at_a_corner_are_one() -> None:
    mask = np.eye(4, dtype=bool)
    histogram = PixelHistogram(default_edges())
    histogram.add("a", mask * 1.0, mask)
    assert histogram.arrays()[1].sum() == pytest.approx(1)


def test_images_at_once_are_counted_as_one_by_one() -> None:
    alone, together = PixelHistogram(), PixelHistogram()
    for _, *image in images():
        alone.add("a", *image)
    together.add("a", *(np.stack(parts) for parts in zip(*(i[1:] for i in images()), strict=True)))
    for name, expected in alone.state_dict().items():
        if expected.dtype.kind == "f":
            np.testing.assert_allclose(together.state_dict()[name], expected, atol=1e-9)


def test_regions_are_what_counts_of_them() -> None:
    mask = np.ones((5, 5), bool)
    valid = np.ones((5, 5), bool)
    valid[2] = False
    histogram = PixelHistogram(default_edges())
    histogram.add("a", mask * 1.0, mask, valid)
    assert histogram.arrays()[1].sum() == pytest.approx(2)


def test_bootstrap_is_repeatable_and_equals_adding_patients_anew() -> None:
    histogram = filled()
    first = pixel_metrics(histogram, THRESHOLD, resamples=30, seed=3)
    assert first == pixel_metrics(histogram, THRESHOLD, resamples=30, seed=3)
    assert first != pixel_metrics(histogram, THRESHOLD, resamples=30, seed=4)
    rows = np.random.default_rng(3).multinomial(5, np.full(5, 0.2), size=15)
    drawn = []
    for row in rows:
        again = PixelHistogram(histogram.edges)
        for patient, *arrays in images():
            for _ in range(row[int(patient[1])]):
                again.add(patient, *arrays)
        drawn.append(pixel_metrics(again, THRESHOLD)["aupro_03"].value)
    few = pixel_metrics(histogram, THRESHOLD, resamples=15, seed=3)["aupro_03"].ci95
    assert few == pytest.approx(tuple(np.percentile(drawn, [2.5, 97.5])))


def test_patients_without_a_lesion_do_not_make_a_figure() -> None:
    histogram = PixelHistogram(default_edges())
    for number in range(6):
        mask = np.zeros((8, 8), bool)
        mask[:2] = number > 1
        histogram.add(f"p{number}", np.arange(64.0).reshape(8, 8), mask)
    found = pixel_metrics(histogram, THRESHOLD)
    assert found["pixel_ap"].note == found["dice_at_threshold"].note == "4 patients: no figure"
    assert found["pixel_ap"].ci95 is None and found["pixel_specificity"].ci95 is not None


def test_values_beyond_the_edges_fall_into_the_end_bins() -> None:
    histogram = PixelHistogram(np.array([0.0, 1.0, 2.0]))
    histogram.add("a", np.array([[-9.0, 0.5, 1.5, np.inf]]), np.array([[0, 0, 1, 1]]))
    assert histogram.arrays()[0].tolist() == [[[2, 0], [0, 2]]]


@pytest.mark.parametrize("threshold", [-50.0, -20.0, 0.123456, 200.0, 300.0])
def test_a_threshold_among_the_edges_is_exact_and_strict(threshold: float) -> None:
    values = np.array([[np.nextafter(threshold, -np.inf), threshold, threshold + 0.5]])
    histogram = PixelHistogram(default_edges(threshold=threshold))
    histogram.add("a", values, np.ones(values.shape))
    assert pixel_metrics(histogram, threshold)["pixel_sensitivity"].value == pytest.approx(1 / 3)


def test_an_infinite_threshold_flags_nothing() -> None:
    found = pixel_metrics(filled(threshold=np.inf), np.inf)
    assert found["pixel_sensitivity"].value == 0
    with pytest.raises(InputError, match="'threshold'"):
        pixel_metrics(filled(), float("nan"))


def test_without_masks_only_specificity_is_known() -> None:
    histogram = PixelHistogram(default_edges())
    for patient, values, mask, valid in images():
        histogram.add(patient, values, np.zeros_like(mask), valid)
    found = pixel_metrics(histogram, THRESHOLD)
    assert {name for name, figure in found.items() if figure.value is not None} == {
        "pixel_specificity"
    }
    empty = pixel_metrics(PixelHistogram(), THRESHOLD)
    assert set(empty) == set(found)
    assert all(figure.value is None for figure in empty.values())
    json.dumps({name: figure.as_dict() for name, figure in found.items()}, allow_nan=False)


def test_dice_by_patient_and_its_mean_over_patients_with_a_lesion() -> None:
    histogram = filled()
    histogram.add("healthy", np.zeros((4, 4)), np.zeros((4, 4)))
    by_patient = patient_dice(histogram, THRESHOLD)
    own = [item for item in images() if item[0] == "p1"]
    truth = np.concatenate([mask[valid] for _, _, mask, valid in own])
    flagged = np.concatenate([values[valid] > THRESHOLD for _, values, _, valid in own])
    assert by_patient["p1"] == pytest.approx(f1_score(truth, flagged))
    assert by_patient["healthy"] is None
    known = [value for value in by_patient.values() if value is not None]
    found = pixel_metrics(histogram, THRESHOLD)["patient_dice_at_threshold"].value
    assert found == pytest.approx(np.mean(known))


def test_merging_and_restoring_give_the_same_counts(tmp_path) -> None:  # type: ignore[no-untyped-def]
    halves = [PixelHistogram(default_edges(threshold=THRESHOLD)) for _ in range(2)]
    for index, image in enumerate(images()):
        halves[index % 2].add(*image)
    np.savez(tmp_path / "state.npz", **halves[0].state_dict())
    with np.load(tmp_path / "state.npz") as state:
        joined = PixelHistogram.from_state(dict(state))
    joined.merge(halves[1])
    assert pixel_metrics(joined, THRESHOLD) == pixel_metrics(filled(), THRESHOLD)
    other = halves[1].state_dict()
    joined.merge(halves[1])
    assert all((other[key] == value).all() for key, value in halves[1].state_dict().items())


def test_mistakes_are_told() -> None:
    histogram = PixelHistogram(default_edges())
    with pytest.raises(InputError, match="one shape"):
        histogram.add("a", np.zeros((4, 4)), np.zeros((4, 5)))
    with pytest.raises(InputError, match="1 NaN"):
        histogram.add("a", np.array([[np.nan, 0.0]]), np.zeros((1, 2)))
    histogram.add("a", np.array([[np.nan, 0.0]]), np.zeros((1, 2)), np.array([[0, 1]]))
    with pytest.raises(InputError, match="same edges"):
        histogram.merge(PixelHistogram(np.arange(3.0)))
    with pytest.raises(InputError, match="increasing"):
        PixelHistogram(np.array([1.0, 0.0]))
