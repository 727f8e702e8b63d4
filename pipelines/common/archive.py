"""Files of `torch.save`, read only if they are undamaged."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch


def read_archive(path: Path) -> tuple[Any, str]:
    """Reads an archive as `torch.save` writes it; nothing in it is executed.

    PyTorch keeps a CRC-32 of each record, but does not compare it when it reads.

    Returns:
        Its content, and ""; or None, and why it cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if any(one.compress_type != zipfile.ZIP_STORED for one in archive.infolist()):
                return None, "it was packed again"
            damaged = archive.testzip()
        if damaged:
            return None, f"the checksum of {damaged} differs"
        return torch.load(path, map_location="cpu", weights_only=True), ""
    except Exception as error:  # whatever a foreign file leads its readers to
        return None, type(error).__name__
