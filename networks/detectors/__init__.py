"""The methods, one file each, behind one contract."""

import importlib
import pkgutil

from .contract import (
    DETECTORS,
    Batches,
    Detector,
    Evidence,
    Inputs,
    Part,
    Stage,
    part_column,
    register,
)

for _module in pkgutil.iter_modules(__path__, f"{__name__}."):
    importlib.import_module(_module.name)

__all__ = [
    "DETECTORS",
    "Batches",
    "Detector",
    "Evidence",
    "Inputs",
    "Part",
    "Stage",
    "part_column",
    "register",
]
