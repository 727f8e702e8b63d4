"""What values the options take: told before anything is read, in one sentence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from transforms.errors import InputError

STRIDE = 16
"""Sides of the network's input are multiples of this."""

_WHOLE_FROM_ONE = (
    "batch_size",
    "max_epochs",
    "pretrain_batch_size",
    "pretrain_epoch_size",
    "val_interval",
    "flow_steps",
    "decoder_width",
    "min_lesion_pixels",
)
_WHOLE_FROM_ZERO = ("num_workers", "seed", "pretrain_epochs", "normal_margin")
_POSITIVE = ("learning_rate", "pretrain_learning_rate")
_FROM_ZERO = (
    "weight_decay",
    "pretrain_weight_decay",
    "pretrain_minutes",
    "max_grad_norm",
    "cache_gigabytes",
)
_RATES = ("target_fpr", "pixel_fpr")
_FLAGS = ("save_maps", "save_panels", "save_dicom", "all_series", "n4", "resample", "amp")
_SHARES = ("min_body_fraction", "alpha", "beta", "head_weight", "map_head_weight")


def check_values(options: Mapping[str, Any]) -> None:
    """Checks the plain values among a config's options; expressions are left to MONAI.

    Args:
        options: by name; those of other configs than ours are passed over.

    Raises:
        InputError: naming the option, what it takes and what was found.
    """
    for name, value in options.items():
        check = _CHECKS.get(name)
        if check is None or value is None or _is_expression(value):
            continue
        check(name, value)


def _is_expression(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(("$", "@", "%"))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _whole(least: int) -> Callable[[str, Any], None]:
    def check(name: str, value: Any) -> None:
        if not _is_number(value) or value != int(value) or value < least:
            raise InputError(f"{name}: expected a whole number from {least}, found {value!r}.")

    return check


def _number(expected: str, holds: Callable[[float], bool]) -> Callable[[str, Any], None]:
    def check(name: str, value: Any) -> None:
        if not _is_number(value) or not holds(value):
            raise InputError(f"{name}: expected {expected}, found {value!r}.")

    return check


def _image_size(name: str, value: Any) -> None:
    sides = value if isinstance(value, (list, tuple)) else [value]
    fits = len(sides) in (1, 2) and all(
        _is_number(side) and side > 0 and side % STRIDE == 0 for side in sides
    )
    if not fits:
        raise InputError(
            f"{name}: expected a side, or [height, width], divisible by {STRIDE}, such as 96, 224 "
            f"or [192,256]; found {value!r}."
        )


def _slice_range(name: str, value: Any) -> None:
    fits = isinstance(value, (list, tuple)) and len(value) == 2 and all(map(_is_number, value))
    if not fits or not 0 <= value[0] <= value[1]:
        raise InputError(
            f"{name}: expected the first and the last slice, such as [25,130]; found {value!r}."
        )


def _device(name: str, value: Any) -> None:
    try:
        device = torch.device(value)
    except (RuntimeError, TypeError) as error:
        raise InputError(
            f"{name}: expected cpu, cuda or cuda:<number>, found {value!r}."
        ) from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"{name}: {value!r} was asked for, but PyTorch finds {torch.cuda.device_count()} CUDA "
            "devices here. Leave the option out to take what there is."
        )


def _flag(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise InputError(f"{name}: expected True or False, found {value!r}.")


_CHECKS: dict[str, Callable[[str, Any], None]] = {
    **{name: _whole(1) for name in _WHOLE_FROM_ONE},
    **{name: _whole(0) for name in _WHOLE_FROM_ZERO},
    **{name: _number("a number above 0", lambda v: v > 0) for name in _POSITIVE},
    **{name: _number("a number from 0", lambda v: v >= 0) for name in _FROM_ZERO},
    **{
        name: _number("a rate between 0 and 1, such as 0.05 for 5 %", lambda v: 0 < v < 1)
        for name in _RATES
    },
    **{name: _number("a number from 0 to 1", lambda v: 0 <= v <= 1) for name in _SHARES},
    **{name: _flag for name in _FLAGS},
    "very_suspicious": _number("a percentile from 0 to below 100", lambda v: 0 <= v < 100),
    "image_size": _image_size,
    "slice_range": _slice_range,
    "device": _device,
    "limit": _whole(1),
}
