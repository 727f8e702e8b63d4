"""Chooses what a training will do, by machine and data, before anything is read in full."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from monai.bundle import ConfigParser

from aeflow.commands import config_names
from aeflow.doctor import GIB, free_memory, listed, normals_told
from aeflow.plan import Choice, Plan, merged
from aeflow.timing import measure
from networks.choices import nearest
from pipelines.common import STRIDE, choose_device
from pipelines.data import Case, CaseLoader, Data, SignalLoader, consecutive, holds_signals
from transforms.errors import InputError
from transforms.geometry import SliceGeometry

LOOKED_AT = {True: 2, False: 8}
"""Volumes, or pictures, that are looked at."""

LEAST_SIZE = 64
"""Side in pixels below which the image size is not lowered to save memory."""

MEMORY_SHARE = 0.7
"""Of the free memory, for the normal images."""

BATCHES = ("pretrain_batch_size", "batch_size")
GIVEN = "given by you"
REASONS = {
    "quick": "a first look, in the shortest time; its figures say little",
    "standard": "what fits this machine: {}",
    "best": "the longest training that was measured; a longer one had flattened, and an ensemble "
    "does not rank better (docs/PROTOCOL.md)",
    "gpu": "gpu.json as it is",
    "volumes": "volumes in three dimensions, patch by patch (docs/volumes.md)",
    "paper": "the published configuration, as it is",
}
CHEST = (
    "If these are chest radiographs, add --region lungs --contrast local: without the region "
    "matched AUROC was 0.09 lower there (docs/PROTOCOL.md). It is not guessed."
)


def make_plan(preset: str, given: Mapping[str, Any]) -> Plan:
    """Looks at machine and data, and chooses.

    Args:
        preset: its name; ``auto`` stands for ``standard``.
        given: the options of the training, which all stand.

    Raises:
        InputError: when it could not work; as MONAI wraps it where a config's part says so.
    """
    gpu = _device(given) == "cuda"
    signals = holds_signals(given.get("dataset_dir"), given.get("layout", "auto"))
    plain = config_names("paper" if preset == "paper" else "standard", gpu, False, signals)
    _require_known(given, merged(plain, {}))
    data: Data = ConfigParser(merged(plain, given)).get_parsed_content("data")
    volumetric = data.cohort.volumetric
    configs = config_names(preset, gpu, volumetric, signals)
    config = merged(configs, given)
    cases = _some(data.split.train, LOOKED_AT[volumetric])
    parser = ConfigParser({**config, "data": data, "patch_size": None})
    sample = Sample.of(parser.get_parsed_content("preprocessing"), cases)
    slices = sample.slices * (len(data.split.train) + len(data.split.calibration))
    size = (
        _window(config, given)
        if signals
        else _image_size(config, given, sample, round(slices), preset)
    )
    patches = _patch_size(config, given, size.value)
    images = round(sample.images(config, size, *patches) * len(data.split.train))
    plan = Plan(
        _preset(preset, configs if gpu else ()),
        configs,
        given,
        (
            size,
            *patches,
            _epochs("pretrain_epochs", config, given, images),
            _epochs("max_epochs", config, given, images),
        ),
        {
            "data": _data_told(data, sample, images, bool(patches)),
            "machine": _machine_told(gpu),
        },
        (*normals_told(data, config["target_fpr"]), *_hints(data, config, preset, gpu)),
    )
    return _timed(plan, data, cases) if sample.slices else plan


@dataclass(frozen=True)
class Sample:
    """A few training cases.

    Attributes:
        side: longer side of the largest slice in square pixels, or the samples of a window.
        slices: normal slices of a case, on average.
        gigabytes: memory that one takes for each pixel of the network's input.
        stretches: of each case the lengths of its stretches of normal slices.
    """

    side: int
    slices: float
    gigabytes: float
    stretches: Sequence[Sequence[int]] = ()

    @classmethod
    def of(cls, loader: CaseLoader | SignalLoader, cases: Sequence[Case]) -> Sample:
        """Reads the cases.

        Raises:
            InputError: when one cannot be used.
        """
        if isinstance(loader, SignalLoader):
            windows = sum(int((loader(case).labels == 0).sum()) for case in cases) / len(cases)
            return cls(loader.window, windows, 0.0)
        read = [loader(case) for case in cases]
        kept = [value for one in read for value in (one.images, *one.context.values())]
        size = sum(value.nbytes for value in kept) / max(1, sum(len(one.images) for one in read))
        normal = [one.indices[one.labels == 0] for one in read]
        return cls(
            max(_side(one.geometry) for one in read),
            sum(map(len, normal)) / len(read),
            size / math.prod(loader.slicer.image_size) / GIB,
            [[len(one) for one in consecutive(own)] for own in normal],
        )

    def images(self, config: Mapping[str, Any], size: Choice, patch: Choice | None = None) -> float:
        """What the network sees of a case, on average: its normal slices, or patches of them."""
        if patch is None:
            return self.slices
        loader = CaseLoader(size.value, patch_size=patch.value, overlap=config["overlap"])
        lengths = [length for own in self.stretches for length in own]
        return sum(len(loader.windows(length)) for length in lengths) / len(self.stretches)


def _side(geometry: SliceGeometry) -> int:
    """The longer side of a slice in square pixels of its finer spacing."""
    lengths = [n * mm for n, mm in zip(geometry.native_shape, geometry.spacing, strict=True)]
    return round(max(lengths) / min(geometry.spacing))


def _machine_told(gpu: bool) -> str:
    """What there is to compute with."""
    told = [f"{os.cpu_count()} processors"]
    if gpu:
        found = torch.cuda.get_device_properties(0)
        told.append(f"{found.name} with {found.total_memory / GIB:.0f} GiB")
    else:
        told.append("no GPU in use")
    free = free_memory()
    return ", ".join([*told, *([] if free is None else [f"{free:.1f} GiB of memory free"])])


def _require_known(given: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    for name in given:
        if "#" not in name and name not in config:
            raise InputError(f"{name}: there is no such option. {nearest(name, config)}".rstrip())


def _device(given: Mapping[str, Any]) -> str:
    asked = str(given.get("device", "auto"))
    return choose_device("auto" if asked[0] in "@$" else asked).type


def _some(cases: Sequence[Case], count: int) -> list[Case]:
    """Evenly spaced ones."""
    return list(cases[:: max(1, len(cases) // count)][:count])


def _preset(preset: str, of_gpu: Sequence[str]) -> Choice:
    name = "standard" if preset == "auto" else preset
    files = " and ".join(f"{one}.json" for one in of_gpu)
    reason = REASONS[name].format(
        f"{files}, with which docs/results.md was measured" if files
        else "train.json, sized for two processors, since no GPU is in use"
    )  # fmt: skip
    return Choice("preset", name, reason if preset == "auto" else f"{GIVEN}; {reason}")


def _image_size(
    config: Mapping[str, Any], given: Mapping[str, Any], sample: Sample, images: int, preset: str
) -> Choice:
    option, measured = "image_size", config["image_size"]
    if option in given:
        return Choice(option, measured, GIVEN)
    if preset == "paper":
        return Choice(option, measured, "the paper's")
    own = STRIDE * math.ceil(sample.side / STRIDE)
    size = min(measured, own)
    reason = f"this preset was measured with it; the images have {sample.side} pixels"
    if size < measured:
        reason = f"the images' own side of {sample.side} pixels, rounded to {STRIDE}"
    free = free_memory()
    needed = sample.gigabytes * images
    if free is None or needed * size**2 <= MEMORY_SHARE * free:
        return Choice(option, size, reason)
    fits = int(math.sqrt(MEMORY_SHARE * free / needed)) // STRIDE * STRIDE
    if fits < min(LEAST_SIZE, size):
        raise InputError(
            f"dataset_dir: about {images} normal slices need {needed * LEAST_SIZE**2:.1f} GiB of "
            f"memory at {LEAST_SIZE} pixels; {free:.1f} are free. Give fewer cases, or fewer "
            "slices of each (--slice_range)."
        )
    return Choice(option, fits, f"{images} slices fit {free:.1f} GiB of free memory so")


def _patch_size(
    config: Mapping[str, Any], given: Mapping[str, Any], size: Any
) -> tuple[Choice, ...]:
    """Patches that are no larger than a slice."""
    option, patch = "patch_size", config["patch_size"]
    if patch is None:
        return ()
    if option in given:
        return (Choice(option, patch, GIVEN),)
    sides = [size, size] if isinstance(size, int) else size
    fits = [patch[0], *map(min, patch[1:], sides)]
    return (Choice(option, fits, "this preset's, within image_size"),)


def _window(config: Mapping[str, Any], given: Mapping[str, Any]) -> Choice:
    reason = "as usual; take one that holds a whole beat, cycle or day, and some more"
    return Choice("window", config["window"], GIVEN if "window" in given else reason)


def _epochs(
    option: str, config: Mapping[str, Any], given: Mapping[str, Any], images: int
) -> Choice:
    """As many images as the preset's measured training saw, also where an epoch has more."""
    measured, size = config[option], config["pretrain_epoch_size"]
    if option in given:
        return Choice(option, measured, GIVEN)
    if option == "pretrain_epochs" and given.get("pretrain_minutes"):
        return Choice(option, measured, "pretrain_minutes, given by you, stands in its place")
    if not isinstance(size, int) or images <= size or measured <= 1:
        return Choice(option, measured, "as measured with this preset")
    fewer = max(1, round(measured * size / images))
    return Choice(
        option, fewer,
        f"{images} normal images make an epoch longer than the {size} that {measured} were "
        "measured with; as many images are seen",
    )  # fmt: skip


def _timed(plan: Plan, data: Data, cases: Sequence[Case]) -> Plan:
    """The plan with its duration, and with batches that fit the GPU."""
    while True:
        config = merged(plan.configs, plan.options)
        try:
            return replace(plan, expected=measure(config, data, cases))
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            sizes = {name: config[name] // 2 for name in BATCHES}
            if min(sizes.values()) < 2 or set(BATCHES) & set(plan.given):
                raise
        kept = [one for one in plan.choices if one.option not in BATCHES]
        tried = "what fits the GPU's free memory, by trying"
        kept += [Choice(name, size, tried) for name, size in sizes.items()]
        plan = replace(plan, choices=tuple(kept))


def _hints(data: Data, config: Mapping[str, Any], preset: str, gpu: bool) -> list[str]:
    pictures = not data.cohort.volumetric
    told = []
    if pictures and config["region"] == config["contrast"] == "auto":
        anatomy = ConfigParser(dict(config)).get_parsed_content("anatomy")
        told.append(
            f"the layout says {anatomy}: region and contrast follow it" if anatomy else CHEST
        )
    if pictures and not gpu and preset != "quick":
        told.append("pictures want a GPU for the best quality; without one this is a first look")
    if preset in ("best", "gpu") and not gpu:
        told.append("this preset is made for a GPU; without one it takes long")
    return told


def _data_told(data: Data, sample: Sample, images: int, patches: bool) -> str:
    split = data.split
    told = [f"{len(one)} to {use}" for use, one in (
        ("train", split.train), ("calibrate", split.calibration), ("test", split.test)
    )]  # fmt: skip
    if data.cohort.signals:
        windows = f"; about {images} normal windows of {sample.side} samples to train"
        return f"{listed(data)}: {', '.join(told)}{windows}"
    seen = "patches" if patches else "slices"
    slices = f"; about {images} normal {seen} to train" if data.cohort.volumetric else ""
    return f"{listed(data)}, sides up to {sample.side} pixels: {', '.join(told)}{slices}"
