"""Does a promised false-positive rate hold? Normal images of patients that no training has seen.

``python -m benchmarks.realised --ckpt_dir <model> --dataset_dir <normals>`` divides the patients
many times into calibration and test, calibrates the model on the one (nothing is trained) and
counts on the other, one image drawn per patient. Beside it stands the rule that takes every image
for a draw of its own. With ``--strength`` the images are changed first, see `transforms.mild`: once
for the model's own thresholds, and once calibrated on half of the patients, measured on the others.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import betabinom

from networks.conformal import (
    conformal_rank,
    patient_weights,
    patients_needed,
    supported_rate,
)
from pipelines.common import choose_device
from pipelines.data import NormalSlices, model_loader, open_normals, slice_loader
from pipelines.scoring import Calibrator, calibrator_like, load_scorer, read_model
from pipelines.scoring.calibration import Gathered
from transforms.mild import mild_changes

Scores = NDArray[np.float64]
INTERVAL = 0.95


def threshold(scores: Scores, patients: Sequence[str], rate: float, by_patient: bool) -> float:
    """The threshold by patient, or as if every image were of a patient of its own."""
    weights = patient_weights(patients if by_patient else range(len(scores)))
    order = np.argsort(scores)
    rate = supported_rate(round(float(weights.sum())), rate)
    return float(scores[order][conformal_rank(weights[torch.from_numpy(order)], rate)])


def interval(calibrating: int, tested: int, rate: float) -> tuple[float, float]:
    """Where the share flagged of so many patients lies in 95 of 100 divisions, both included."""
    rank = conformal_rank(patient_weights(range(calibrating)), rate) + 1
    low, high = betabinom(tested, calibrating + 1 - rank, rank).interval(INTERVAL)
    return float(low) / tested, float(high) / tested


class Bench:
    """A model, and the evidence about normal images of patients that it has not seen."""

    def __init__(self, ckpt_dir: str, dataset_dir: str, layout: str, device: str) -> None:
        self.model = read_model(ckpt_dir)
        self.device = choose_device(device)
        self.data = open_normals(self.model, dataset_dir, layout)
        self.dataset = NormalSlices(self.data.split.calibration, model_loader(self.model))
        self.images = self.dataset.images

    def calibrator(self) -> Calibrator:
        """With the model's own calibration; images come one by one, so that they can be chosen."""
        scorer = load_scorer(self.model, self.device)
        loader = slice_loader(self.dataset, 1)
        return calibrator_like(self.model, scorer, loader, self.device)

    @staticmethod
    def anew(
        calibrator: Calibrator, gathered: Gathered, patients: Any, ours: NDArray[np.bool_]
    ) -> Scores:
        """The scores of all images, calibrated on some of them."""
        chosen = np.flatnonzero(ours)
        calibrator.scorer.reset()
        calibrator.patients = patients[chosen].tolist()
        calibrator.fit([gathered[one] for one in chosen])
        return calibrator.scores(gathered)

    def divisions(self, draws: int, rates: Sequence[float]) -> None:
        """Prints the realised rates of many divisions."""
        calibrator = self.calibrator()
        gathered = calibrator.gather()
        patients = np.array(calibrator.patients)
        names = np.unique(patients)
        print(f"{len(patients)} normal images of {len(names)} patients, {draws} divisions in half")
        realised: dict[tuple[float, bool], list[float]] = {}
        for draw in range(draws):
            source = np.random.default_rng(draw)
            ours = np.isin(patients, source.permutation(names)[: len(names) // 2])
            scores = self.anew(calibrator, gathered, patients, ours)
            chosen = np.flatnonzero(ours)
            others = [
                source.choice(np.flatnonzero(patients == n)) for n in np.unique(patients[~ours])
            ]
            for rate in rates:
                for by_patient in (True, False):
                    level = threshold(scores[chosen], calibrator.patients, rate, by_patient)
                    share = float((scores[others] > level).mean())
                    realised.setdefault((rate, by_patient), []).append(share)
        half = len(names) // 2
        print("| promised | rule | realised, mean (least to most) | 95 % interval | inside |")
        print("|---|---|---|---|---|")
        for (rate, by_patient), found in realised.items():
            low, high = interval(half, len(names) - half, supported_rate(half, rate))
            inside = sum(low <= one <= high for one in found)
            told = (
                ""
                if half >= patients_needed(rate)
                else f" (supported {supported_rate(half, rate):.3f})"
            )
            print(
                f"| {rate:g}{told} | {'patients' if by_patient else 'images'} | "
                f"{np.mean(found):.4f} ({min(found):.4f} to {max(found):.4f}) | "
                f"{low:.4f} to {high:.4f} | {inside} of {draws} |"
            )

    def shifted(self, strength: float) -> None:
        """Prints the rates on changed images, by the model's thresholds and calibrated anew."""
        print(f"| change, strength {strength:g} | before | calibrated on half | promised |")
        print("|---|---|---|---|")
        for name, change in {"none": torch.clone, **mild_changes(strength)}.items():
            self.dataset.images = torch.cat([change(one) for one in self.images.split(64)])
            calibrator = self.calibrator()
            gathered = calibrator.gather()
            patients = np.array(calibrator.patients)
            names = np.random.default_rng(0).permutation(np.unique(patients))
            ours = np.isin(patients, names[: len(names) // 2])
            before = calibrator.scores(gathered) > float(calibrator.scorer.calibration.threshold)
            scores = self.anew(calibrator, gathered, patients, ours)
            after = scores > float(calibrator.scorer.calibration.threshold)
            told = " | ".join(
                f"{_by_patient(one[~ours], patients[~ours]):.3f}" for one in (before, after)
            )
            print(f"| {name} | {told} | {float(calibrator.scorer.calibration.target_fpr):.3f} |")
        self.dataset.images = self.images


def _by_patient(flagged: NDArray[np.bool_], patients: NDArray[np.str_]) -> float:
    return float(np.mean([flagged[patients == one].mean() for one in np.unique(patients)]))


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--ckpt_dir", required=True)
    parser.add_argument("--dataset_dir", required=True)
    parser.add_argument("--layout", default="normals")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.01, 0.05, 0.1, 0.2])
    parser.add_argument("--strength", type=float, help="of changes; none are made without it")
    options = parser.parse_args(arguments)
    bench = Bench(options.ckpt_dir, options.dataset_dir, options.layout, options.device)
    bench.divisions(options.draws, options.rates)
    if options.strength:
        bench.shifted(options.strength)


if __name__ == "__main__":
    main()
