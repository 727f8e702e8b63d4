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
    entry = viewer_entry(volume)
    image, shown = unpack(entry["image"]), unpack(entry["map"])
    # The file's first axis runs to the left, that of RAS+ to the right.
    assert np.array_equal(shown, np.round(volume.anomaly_map[::-1] / 6 * MAP_LEVELS))
    assert np.corrcoef(image.ravel(), volume.image[::-1].ravel())[0, 1] > 0.99
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
    assert viewer_entry(swapped) == viewer_entry(volume)
    assert file_slice(swapped, 0, 3) == 12 and file_slice(swapped, 2, 3) == 3


def test_a_large_volume_gets_coarser_and_loses_no_finding(volume_of, monkeypatch) -> None:
    monkeypatch.setattr(volumes, "IMAGE_SIDES", (8,))
    volume = volume_of()
    peak = np.zeros_like(volume.anomaly_map)
    peak[7, 9, 11] = 6.0
    entry = viewer_entry(replace(volume, anomaly_map=peak, mask=None))
    assert entry["image"]["step"] == [2, 3, 2] and entry["map"]["step"] == [4, 5, 3]
    assert unpack(entry["map"]).max() == MAP_LEVELS
    assert entry["mask"] is None


def test_a_noisy_volume_stays_below_the_limit(volume_of, monkeypatch) -> None:
    monkeypatch.setattr(volumes, "MAX_BYTES", 6000)
    monkeypatch.setattr(volumes, "IMAGE_SIDES", (32, 16, 8))
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(20, 20, 20)).astype(np.float32)
    entry = viewer_entry(replace(volume_of(), image=noise, anomaly_map=noise, mask=None))
    assert sum(len(entry[name]["data"]) for name in ("image", "map")) <= 6000


def test_values_that_are_not_numbers_do_no_harm(volume_of) -> None:
    volume = volume_of()
    broken = volume.image.copy()
    broken[0, 0, 0] = np.nan
    entry = viewer_entry(replace(volume, image=broken, anomaly_map=np.full_like(broken, np.nan)))
    assert entry["start"] == [8, 10, 6]
    assert unpack(entry["map"]).max() == 0
