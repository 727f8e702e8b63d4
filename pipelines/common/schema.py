"""The options: what each means and takes. Their defaults stand in the bundle's configs alone."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    StrictInt,
    ValidationError,
)
from pydantic_core import core_schema

from networks.choices import nearest
from transforms.errors import InputError

LONGEST_PATH, LONGEST_PART = 4095, 255
"""Bytes of a path, and of a name in it, that file systems take."""

STRIDE = 16
"""Sides of the network's input are multiples of this."""

LEAST_WINDOW = 3 * STRIDE
"""Samples of a signal's window: with fewer, a convolution's padding is longer than its features."""

FILLINGS = (
    "opacity", "haze", "flattened", "reticular", "darkening", "blurred", "foreign", "tissue",
    "deformed",
)  # fmt: skip
"""Names that `transforms.fillings` knows; here, as are others below, since importing it is slow."""


@dataclass(frozen=True)
class Takes:
    """What an option takes: in words that follow *expected*, and a check beyond its type.

    Attributes:
        words: these words.
        check: raises ValueError, with a hint, for what is not taken.
    """

    words: str
    check: Callable[[Any], Any] = lambda value: value

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        """Lets pydantic run the check."""
        return core_schema.no_info_after_validator_function(self.check, handler(source))


def _one_of(*names: str) -> Takes:
    def check(name: str) -> str:
        if name not in names:
            raise ValueError(nearest(name, names))
        return name

    return Takes(f"one of {', '.join(names)}", check)


def _divisible(size: int | list[int], axes: tuple[int, ...] = (1, 2)) -> int | list[int]:
    sides = [size] if isinstance(size, int) else size
    if len(sides) not in axes or not all(side > 0 and side % STRIDE == 0 for side in sides):
        raise ValueError
    return size


def _ordered(limits: tuple[int, int]) -> tuple[int, int]:
    if limits[0] > limits[1]:
        raise ValueError
    return limits


def _known_fillings(names: list[str]) -> list[str]:
    for name in names:
        if name not in FILLINGS:
            raise ValueError(nearest(name, FILLINGS) or f"There are {', '.join(FILLINGS)}.")
    return names


def _present(name: str) -> str:
    if name in ("auto", "cpu"):
        return name
    found = re.fullmatch(r"cuda(?::(\d{1,3}))?", name)
    if found is None:
        raise ValueError
    import torch  # slow

    if int(found[1] or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"PyTorch finds {torch.cuda.device_count()} CUDA devices here. Leave the option out to "
            "take what there is."
        )
    return name


def _possible(path: str) -> str:
    if not path:
        raise ValueError("It is empty; leave the option out to take its default.")
    parts = os.fsencode(path).split(b"/")
    if len(path) > LONGEST_PATH or max(map(len, parts)) > LONGEST_PART or "\0" in path:
        raise ValueError(f"A name has at most {LONGEST_PART} bytes.")
    return path


Text = Annotated[str, Takes("text")]
Place = Annotated[str, Takes("a path", _possible)]
Names = Annotated[
    str | StrictInt | list[str | StrictInt], Takes("a name, or several such as \"['a','b']\"")
]
Flag = Annotated[bool, Field(strict=True), Takes("True or False")]
FromZero = Annotated[int, Field(ge=0, strict=True), Takes("a whole number from 0")]
FromOne = Annotated[int, Field(ge=1, strict=True), Takes("a whole number from 1")]
Positive = Annotated[float, Field(gt=0, strict=True), Takes("a number above 0")]
Amount = Annotated[float, Field(ge=0, strict=True), Takes("a number from 0")]
Share = Annotated[float, Field(ge=0, le=1, strict=True), Takes("a number from 0 to 1")]
PoolShare = Annotated[float, Field(gt=0, le=1, strict=True), Takes("a number above 0, up to 1")]
Rate = Annotated[
    float, Field(gt=0, lt=1, strict=True), Takes("a rate between 0 and 1, such as 0.05 for 5 %")
]
Percentile = Annotated[
    float, Field(ge=0, lt=100, strict=True), Takes("a percentile from 0 to below 100")
]
Size = Annotated[
    StrictInt | list[StrictInt],
    Takes(
        f"a side, or [height, width], divisible by {STRIDE}, such as 96, 224 or [192,256]",
        _divisible,
    ),
]
PatchSize = Annotated[
    list[StrictInt],
    Takes(
        f"slices, height and width, divisible by {STRIDE}, such as [16,96,96]",
        lambda size: _divisible(size, (3,)),
    ),
]
Overlap = Annotated[float, Field(ge=0, lt=1, strict=True), Takes("a share from 0 to below 1")]
Range = Annotated[
    tuple[FromZero, FromZero],
    Takes("the first and the last slice, such as [25,130]", _ordered),
]
Weights = Annotated[
    dict[str, Amount], Field(min_length=1), Takes("numbers from 0 by part, such as {'flow': 1}")
]
Fractions = Annotated[tuple[Share, Share, Share], Takes("three shares, such as [0.6,0.2,0.2]")]
Strides = Annotated[list[FromOne], Field(min_length=1), Takes("strides, such as [16]")]
Seeds = Annotated[list[FromZero], Field(min_length=1), Takes("seeds, such as [0,1,2]")]
Device = Annotated[str, Takes("auto, cpu, cuda or cuda:<number>", _present)]


class Options(BaseModel):
    """One field per option, in the order of the table in docs/options.md."""

    model_config = ConfigDict(validate_assignment=True)

    dataset_dir: Place = Field(description="the data folder; none takes the phantoms")
    methods: Names = Field(
        description="what to compare: `all`, `aeflow`, or names of the methods' configs"
    )
    seeds: Seeds = Field(description="of each method's trainings")
    minutes: Amount = Field(
        description="training time of each method and seed, which its stages share; 0 for "
        "what the configs say"
    )
    parallel: FromOne = Field(description="trainings at once")
    configs: Names = Field(
        description="configs laid over `train.json` for all methods, such as `gpu`, or files"
    )
    layout: Text = Field(description="how the folder lies on the disk, see above")
    modalities: Names = Field(description="the channels, e.g. `\"['flair','t2']\"`; BraTS: `flair`")
    channels: FromOne = Field(
        description="channels of an image, by default one per modality; 3 for colour pictures"
    )
    patient_pattern: Text = Field(
        description="regular expression that finds the patient in a file's name (`folder`)"
    )
    split: Place = Field(description="a JSON file that decides the division of the patients")
    fractions: Fractions = Field(description="of the patients for training, calibration and test")
    cases: Names = Field(description="the cases to evaluate, by default all")
    limit: FromOne = Field(description="the most cases to evaluate")
    input: Place = Field(description="the image, or the folder of images, to score")
    series_uid: Text = Field(description="the DICOM series to score where a folder holds several")
    all_series: Flag = Field(description="score every DICOM series below the folder")
    axis: Annotated[str, _one_of("axial", "coronal", "sagittal")] = Field(
        description="along which volumes are cut"
    )
    image_size: Size = Field(description="side of the network's input")
    intensity: Text = Field(description="how values become [0, 1], see *What may go in*")
    n4: Flag = Field(description="correct MR volumes for uneven brightness")
    resample: Flag = Field(description="resample a case's modalities onto the first one's grid")
    patch_size: PatchSize = Field(
        description="of the patches in which a network sees volumes in three dimensions; by "
        "default it sees single slices"
    )
    overlap: Overlap = Field(description="share of a patch that the next one repeats")
    slice_range: Range = Field(description="the slices to use, by default all")
    min_body_fraction: Share = Field(
        description="smallest share of a slice that the body must fill"
    )
    min_lesion_pixels: FromOne = Field(description="lesion pixels that make a slice anomalous")
    normal_margin: FromZero = Field(
        description="slices between a normal slice and the nearest lesion"
    )
    window: Annotated[
        int,
        Field(ge=LEAST_WINDOW, multiple_of=STRIDE, strict=True),
        Takes(f"a number of samples from {LEAST_WINDOW}, divisible by {STRIDE}"),
    ] = Field(description="samples of a window, into which signals are cut")
    stride: FromOne = Field(
        description="samples from one window to the next; by default a quarter of a window"
    )
    region: Annotated[str, Takes("auto, body, lungs or a folder", _possible)] = Field(
        description="where synthetic anomalies may lie: `body`, `lungs` of chest radiographs, or a "
        "folder of masks called like the images; `auto`: what the layout knows"
    )
    fillings: Annotated[list[str], Field(min_length=1), Takes("names", _known_fillings)] = Field(
        description="what is inside them; by default what suits the region"
    )
    withheld: Annotated[str, _one_of(*FILLINGS)] = Field(
        description="the one that no training sees, on which the weights are fitted; by default "
        "one that does not suit the region"
    )
    fit_weights: Flag = Field(
        description="fit the weights of score and map, if 20 held-out patients can be spared for it"
    )
    labelled_anomalies: Place = Field(
        description="a few labelled anomalies to learn from beside your normals: a plain folder of "
        "them, or a data set in one of the layouts, such as a table, with labels or masks"
    )
    contrast: Annotated[str, _one_of("auto", "none", "local")] = Field(
        description="how the network sees contrast: `local` against the surroundings, which `auto` "
        "takes for chest radiographs; else `none`"
    )
    ensemble: FromOne = Field(
        description="detectors that are trained as one; from 2 on, scores and maps have a standard "
        "deviation"
    )
    encoder: Annotated[str, _one_of("resnet18", "resnet34", "resnet50", "wide_resnet50_2")] = Field(
        description="the ResNet that is the encoder"
    )
    encoder_weights: Place = Field(
        description="a local torchvision state dict; skips the pre-training"
    )
    encoder_sha256: Text = Field(description="its SHA-256, which is checked")
    flow_strides: Strides = Field(description="strides of the features that the flow models")
    head_strides: Strides = Field(
        description="strides of the features that find synthetic anomalies; the encoder ends there"
    )
    flow_steps: FromOne = Field(description="steps of the flow")
    subnet: Annotated[str, _one_of("conv", "resnet")] = Field(
        description="networks in the flow's couplings"
    )
    hidden: FromOne = Field(
        description="their width; by default that of their input, within bounds"
    )
    scale: Annotated[str, _one_of("softplus", "clamped_exp")] = Field(
        description="how a coupling scales"
    )
    clamp: Positive = Field(description="bound of the couplings' log-scales")
    decoder_width: FromOne = Field(description="channels of the decoder's last stage")
    pretrain_epochs: FromZero = Field(
        description="of finding synthetic anomalies in your normals; 0 for no pre-training"
    )
    pretrain_minutes: Amount = Field(
        description="duration in place of the epochs; only epochs repeat exactly"
    )
    pretrain_epoch_size: FromOne = Field(description="least number of images of such an epoch")
    pretrain_batch_size: FromOne = Field(description="images at once, of each process")
    pretrain_learning_rate: Positive = Field(description="of AdamW")
    pretrain_weight_decay: Amount = Field(description="of AdamW")
    max_epochs: FromOne = Field(description="of training flow and decoder")
    batch_size: FromOne = Field(
        description="images at once, of each process; a GPU scores four times as many"
    )
    learning_rate: Positive = Field(description="of Adam")
    weight_decay: Amount = Field(description="of Adam")
    max_grad_norm: Amount = Field(description="the gradients' norm is clipped to it")
    alpha: Share = Field(description="weight of the likelihood in the loss")
    val_interval: FromOne = Field(description="epochs from one validation to the next")
    cache_gigabytes: Amount = Field(description="largest cache of the frozen encoder's features")
    score: Text = Field(description="what judges an image: `fused`, `paper`, or one part alone")
    weights: Weights = Field(
        description="of the parts in the fused score, `{'flow': 1}`; by default what suits the data"
    )
    map_weights: Weights = Field(description="likewise in the fused map")
    map_pool: PoolShare = Field(
        description="share of the fused map's positions whose mean is the part `local`"
    )
    normative_share: Share = Field(
        description="of the normative map in a volume's map and score; the network has the rest"
    )
    margin: Amount = Field(
        description="what the largest part may exceed the fused score by, so that none is hidden"
    )
    beta: Share = Field(description="weight of the flow in the paper's score")
    flow_pool: PoolShare = Field(description="share of the flow's positions that score an image")
    head_pool: PoolShare = Field(description="share of the head's positions that score an image")
    target_fpr: Rate = Field(
        description="share of normal images that may be flagged, each patient counting once"
    )
    pixel_fpr: Rate = Field(description="share of normal pixels that may be flagged")
    very_suspicious: Percentile = Field(
        description="of normal pixels, from which a server shows the second band"
    )
    output_dir: Place = Field(
        description="folder of the results; by default `output`, `evaluation` or `inference`"
    )
    ckpt_dir: Place = Field(description="folder of `model.pt`; by default `models` in the bundle")
    save_maps: Flag = Field(
        description="write the anomaly maps; by default, a training does so for volumes only"
    )
    save_panels: Flag = Field(description="draw a panel of each case")
    save_dicom: Flag = Field(description="write DICOM objects for DICOM input")
    tracking_uri: Text = Field(
        description="an MLflow URI, or `none`; beats `MLFLOW_TRACKING_URI`; by default `mlflow.db` "
        "in the working folder"
    )
    system_metrics: Flag = Field(
        description="record the load of processor, memory and GPU in MLflow; needs `psutil`"
    )
    register_model: Text = Field(description="name of the scorer in the MLflow model registry")
    resume: Text = Field(
        description="`auto` goes on where a training in `ckpt_dir` was interrupted, `never` starts "
        "anew; or the checkpoint's file to go on from"
    )
    checkpoint_epochs: FromOne = Field(description="epochs from one checkpoint to the next")
    checkpoint_minutes: Amount = Field(
        description="minutes likewise, within an epoch too; 0 for epochs alone"
    )
    seed: FromZero = Field(description="of everything random")
    device: Device = Field(description="where to compute; `auto` takes a GPU if there is one")
    amp: Flag = Field(
        description="train in bfloat16 where that is faster, and score in float16 on a GPU"
    )
    compile: Annotated[str, _one_of("auto", "always", "never")] = Field(
        description="when PyTorch compiles the network; `auto` on a GPU, for runs that repay it; "
        "`never` also turns CUDA graphs off"
    )
    num_workers: FromZero = Field(description="worker processes; they do not change the result")
    max_gigabytes: Positive = Field(description="memory that one image may take, in GiB")
    max_seconds: Positive = Field(description="time that reading one image may take")


def takes(option: str) -> str:
    """What an option takes, in words."""
    return next(
        one.words for one in Options.model_fields[option].metadata if isinstance(one, Takes)
    )


def check_values(options: Mapping[str, Any]) -> None:
    """Checks the plain values among a config's options; expressions are left to MONAI.

    Args:
        options: by name; those of other configs than ours are passed over.

    Raises:
        InputError: naming the option, what it takes and what was found.
    """
    checker = Options.model_construct()
    for name, value in options.items():
        expression = isinstance(value, str) and value.startswith(("$", "@", "%"))
        if name not in Options.model_fields or value is None or expression:
            continue
        try:
            setattr(checker, name, value)
        except ValidationError as error:
            hint = error.errors()[0].get("ctx", {}).get("error", "")
            raise InputError(
                f"{name}: expected {takes(name)}, found {value!r}. {hint}".rstrip()
            ) from error


def require_part(name: str, found: Any, kind: type) -> None:
    """Refuses what a config gives in place of a part of the program.

    Raises:
        InputError: naming the part.
    """
    if not isinstance(found, kind):
        raise InputError(
            f"{name}: expected {kind.__name__}, found {found!r:.80}. Undo what was changed in the "
            "config or by an option."
        )
