"""Pictures to train on and a model of them, made once for the cases of a process."""

import logging
import tempfile
import warnings
from functools import cache
from pathlib import Path
from unittest import mock

import numpy as np
from monai.bundle import run
from PIL import Image

BUNDLE = Path(__file__).parents[2] / "bundles" / "aeflow"


@cache
def place() -> Path:
    """A folder with ``pictures`` and, in ``models``, a model of them."""
    kept = tempfile.TemporaryDirectory()
    _kept.append(kept)
    folder, source = Path(kept.name), np.random.default_rng(0)
    for part, count in (("train/normal", 12), ("test/normal", 2), ("test/anomalous", 2)):
        (folder / "pictures" / part).mkdir(parents=True)
        for number in range(count):
            picture = Image.fromarray(source.integers(0, 255, (32, 32), dtype=np.uint8))
            picture.save(folder / "pictures" / part / f"{part[:2]}{part[-2:]}{number}.png")
    logging.disable(logging.INFO)
    with warnings.catch_warnings(), mock.patch.dict("os.environ"), mock.patch("sys.excepthook"):
        warnings.simplefilter("ignore")
        run(
            "training", config_file=str(BUNDLE / "train.json"),
            dataset_dir=str(folder / "pictures"), ckpt_dir=str(folder / "models"),
            output_dir=str(folder / "output"), tracking_uri="none", image_size=32, flow_steps=2,
            decoder_width=4, pretrain_epochs=1, pretrain_epoch_size=16, max_epochs=1,
            batch_size=16, fractions=[0.5, 0.5, 0.0], target_fpr=0.3, device="cpu",
        )  # fmt: skip
    logging.disable(logging.NOTSET)
    return folder


_kept: list[tempfile.TemporaryDirectory[str]] = []
