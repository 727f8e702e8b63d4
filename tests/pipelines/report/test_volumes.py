"""Volumes on their way into the page."""

import base64
import gzip
from dataclasses import replace

import numpy as np

from pipelines.report import volumes
from pipelines.report.volumes import MAP_LEVELS, file_slice, viewer_entry


def unpack(layer: dict) -> np.ndarray:
    raw = gzip.decompress(base64.b64decode(layer["data"]))
    return np.frombuffer(raw, np.uint8).reshape(layer["shape"], order="F")


def test_a_volume_is_turned_and_keeps_its_values(volume_of) -> None:
    volume = volume_of()
    entry = viewer_entry(volume, 1.5)
    image = np.array(entry["values"])[unpack(entry["image"])]
    shown = unpack(entry["map"])
    # The file's first axis runs to the left, that of RAS+ to the right.
    assert np.array_equal(shown, np.round(volume.anomaly_map[::-1] / 6 * MAP_LEVELS))
    assert abs(image - volume.image[::-1]).max() < np.ptp(volume.image) / 128
    assert [image.min(), image.max()] == [0, 1305]
    assert np.array_equal(unpack(entry["mask"]) > 0, volume.mask[::-1])
    assert entry["flipped"] == [True, False, False]
    assert entry["spacing"] == [1.0, 1.0, 2.0]
    assert entry["count"] == [16, 20, 12]
    x, y, z = entry["start"]
    assert volume.anomaly_map[::-1][x, y, z] == volume.anomaly_map.max()


def test_axes_in_another_order(volume_of) -> None:
    volume = volume_of()
    swapped = replace(
        volume,
        image=volume.image.transpose(2, 1, 0),
        anomaly_map=volume.anomaly_map.transpose(2, 1, 0),
        mask=volume.mask.transpose(2, 1, 0),
        affine=volume.affine[:, [2, 1, 0, 3]],
    )
    assert viewer_entry(swapped, 1.5) == viewer_entry(volume, 1.5)
    assert file_slice(swapped, 0, 3) == 12 and file_slice(swapped, 2, 3) == 3


def test_the_strip_runs_along_the_scored_axis(volume_of) -> None:
    scores = {3: 1.0, 4: 7.0, 15: 2.0}
    entry = viewer_entry(replace(volume_of(), slice_scores=scores, slice_axis="sagittal"), 1.5)
    # The file's first axis runs to the left.
    told = {15 - place: score for place, score in enumerate(entry["strip"]["scores"]) if score}
    assert told == scores and len(entry["strip"]["scores"]) == 16
    assert entry["strip"] | {"scores": None} == {
        "axis": 0, "scores": None, "threshold": 1.5, "of": "score",
    }  # fmt: skip
    assert entry["start"] == [11, 10, 11]  # there the map is highest in that slice
    unknown = replace(volume_of(), slice_scores={3: np.nan})
    assert viewer_entry(unknown, 1.5)["start"][2] == 6


def test_without_scores_the_map_tells(volume_of) -> None:
    volume = volume_of()
    strip = viewer_entry(volume, 1.5)["strip"]
    assert strip["scores"] == volume.anomaly_map.max(axis=(0, 1)).tolist()
    assert strip["threshold"] is None and strip["of"] == "highest value of the map"


def test_rare_and_extreme_values_keep_their_shades(volume_of) -> None:
    """A window over soft tissue, over bone or over the lung finds shades enough."""
    image = np.random.default_rng(0).normal(40, 10, (16, 20, 12)).astype(np.float32)
    image[0], image[1, :4], image[1, 4:8] = -1000, -800, 1500
    entry = viewer_entry(replace(volume_of(), image=image), 1.5)
    values = np.array(entry["values"])
    assert (np.diff(values) > 0).all() and len(values) <= 256
    assert values[0] == -1000 and values[-1] == 1500
    assert ((values > 20) & (values < 60)).sum() > 100


def test_a_large_volume_gets_coarser_and_loses_no_finding(volume_of, monkeypatch) -> None:
    monkeypatch.setattr(volumes, "IMAGE_SIDES", (8,))
    volume = volume_of()
    peak = np.zeros_like(volume.anomaly_map)
    peak[7, 9, 11] = 6.0
    entry = viewer_entry(replace(volume, anomaly_map=peak, mask=None), 1.5)
    assert entry["image"]["step"] == [2, 3, 2] and entry["map"]["step"] == [4, 5, 3]
    assert unpack(entry["map"]).max() == MAP_LEVELS
    assert entry["mask"] is None


def test_a_noisy_volume_stays_below_the_limit(volume_of, monkeypatch) -> None:
    monkeypatch.setattr(volumes, "MAX_BYTES", 6000)
    monkeypatch.setattr(volumes, "IMAGE_SIDES", (32, 16, 8))
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(20, 20, 20)).astype(np.float32)
    entry = viewer_entry(replace(volume_of(), image=noise, anomaly_map=noise, mask=None), 1.5)
    assert sum(len(entry[name]["data"]) for name in ("image", "map")) <= 6000


def test_values_that_are_not_numbers_do_no_harm(volume_of) -> None:
    volume = volume_of()
    broken = volume.image.copy()
    broken[0, 0, 0] = np.nan
    nothing = np.full_like(broken, np.nan)
    entry = viewer_entry(replace(volume, image=broken, anomaly_map=nothing), np.nan)
    assert entry["start"] == [8, 10, 6]
    assert unpack(entry["map"]).max() == 0
