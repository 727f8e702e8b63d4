import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.arrange import COLUMNS, write_table
from benchmarks.blurred import blurred_to, main, vertical_difference
from pipelines.data.layouts import read_cohort


def noise(seed: int, contrast: float) -> torch.Tensor:
    source = torch.Generator().manual_seed(seed)
    return 128 + contrast * torch.randn(48, 48, generator=source)


def test_an_image_is_blurred_to_a_vertical_difference() -> None:
    image = noise(0, 30)
    assert vertical_difference(blurred_to(image, 5.0)) == pytest.approx(5.0, rel=0.01)
    assert torch.equal(blurred_to(image, 1000.0), image)


def test_normals_stand_beside_themselves(tmp_path: Path) -> None:
    rows = []
    for number in range(8):
        label, contrast = ("normal", 30) if number < 5 else ("anomalous", 8 + number)
        values = noise(number, contrast).clamp(0, 255).byte().numpy()
        path = tmp_path / f"image{number}.png"
        Image.fromarray(values).save(path)
        rows.append((str(path), f"p{number}", label, "", "test"))
    rows.append((str(path), "p9", "normal", "", "train"))
    table = write_table(tmp_path / "table", rows)
    main(["--cases", str(table), "--output", str(tmp_path / "out")])
    with (tmp_path / "out" / "cases.csv").open() as file:
        assert tuple(next(csv.reader(file))) == COLUMNS
    cases = read_cohort(tmp_path / "out").cases
    assert [case.label for case in cases].count(0) == 5 and len(cases) == 10
    found = {
        label: sorted(
            vertical_difference(torch.from_numpy(np.asarray(Image.open(path), np.float32)))
            for path in paths
        )
        for label, paths in (
            ("blurred", [case.images[0] for case in cases if case.label == 1]),
            ("wanted", [row[0] for row in rows if row[2] == "anomalous"]),
        )
    }
    expected = np.quantile(found["wanted"], (np.arange(5) + 0.5) / 5)
    np.testing.assert_allclose(found["blurred"], expected, rtol=0.05)
