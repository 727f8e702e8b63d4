"""Finding image files below a folder, and telling what a folder holds."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from transforms.volumes import ITK_SUFFIXES

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
NIFTI = (".nii.gz", ".nii")
DICOM = (".dcm", ".dicom", ".ima")
#: Deepest level of folders that is looked at: data sets stay well below, link cycles do not.
MAX_DEPTH = 8


def suffix_of(path: Path) -> str:
    """Return the image suffix as written, such as ``.nii.gz``; empty for any other name."""
    lower = path.name.lower()
    for suffix in (*NIFTI, *ITK_SUFFIXES, *PICTURES, *DICOM):
        if lower.endswith(suffix):
            return path.name[len(path.name) - len(suffix) :]
    return ""


def stem_of(path: Path) -> str:
    """Return the name without its image suffix; other dots, as in DICOM UIDs, stay."""
    suffix = suffix_of(path)
    return path.name[: len(path.name) - len(suffix)]


def is_nifti(path: Path) -> bool:
    """Tell a NIfTI file by its name."""
    return path.name.lower().endswith(NIFTI)


def is_dicom(path: Path) -> bool:
    """Tell a DICOM file by its suffix or, when it has no image suffix, by its preamble."""
    if suffix_of(path):
        return path.name.lower().endswith(DICOM)
    if path.name.upper() == "DICOMDIR":
        return False
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def is_volume(path: Path) -> bool:
    """Tell a NIfTI, NRRD or MetaImage file by its name."""
    return path.name.lower().endswith((*NIFTI, *ITK_SUFFIXES))


def is_image(path: Path) -> bool:
    """Tell whether a file is a picture, a volume or a DICOM file."""
    return bool(suffix_of(path)) or is_dicom(path)


def entries(folder: Path) -> list[Path]:
    """List what a folder holds, sorted, without hidden files; empty for anything else."""
    return [Path(entry.path) for entry in _scan(folder)]


def subfolders(folder: Path) -> dict[str, Path]:
    """Map the names of a folder's subfolders, exactly as spelled, to their paths."""
    return {entry.name: Path(entry.path) for entry in _scan(folder) if entry.is_dir()}


def folders_to_depth(root: Path, depth: int) -> Iterator[list[Path]]:
    """Yield the folders of one level after the other, from ``[root]`` down to `depth`."""
    level = [root]
    yield level
    for _ in range(depth):
        level = [folder for parent in level for folder in subfolders(parent).values()]
        yield level


def find_images(folder: Path, _depth: int = 0) -> list[Path]:
    """Find the images below a folder, sorted.

    A subfolder that directly holds DICOM files stands for one image (a series); DICOM files that
    lie in `folder` itself are one image each.
    """
    found: list[Path] = []
    series = False
    for entry in _scan(folder):
        path = Path(entry.path)
        if entry.is_dir():
            if _depth < MAX_DEPTH:
                found += find_images(path, _depth + 1)
        elif _depth > 0 and is_dicom(path):
            series = True
        elif is_image(path):
            found.append(path)
    return sorted([*found, folder] if series else found)


def describe_tree(root: Path, depth: int = 2, limit: int = 8) -> str:
    """Describe a folder in a few lines: subfolders to `depth`, files counted by suffix."""
    if not root.is_dir():
        return f"  {root.name} (a file)"
    files = _count_files(root)
    lines = [f"  {root.name or root}/{f' ({files})' if files else ''}"]
    lines += _tree_lines(root, depth, limit, "    ")
    return "\n".join(lines) if files or len(lines) > 1 else f"{lines[0]} (empty)"


def shortened(names: Iterable[str], limit: int = 5) -> str:
    """Join names for a message, at most `limit` of them."""
    listed = list(names)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more


def counted(count: int, thing: str) -> str:
    """Return the count and the thing, in the plural where it should be."""
    return f"{count} {thing}{'' if count == 1 else 's'}"


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    # Directory entries know their kind: a call per file would take seconds in large data sets.
    if not folder.is_dir():
        return []
    with os.scandir(folder) as found:
        shown = [e for e in found if not e.name.startswith(".") and e.name != "__MACOSX"]
    return sorted(shown, key=lambda entry: entry.name)


def _tree_lines(folder: Path, depth: int, limit: int, indent: str) -> list[str]:
    if depth == 0:
        return []
    below = list(subfolders(folder).values())
    lines = []
    for path in below[:limit]:
        lines.append(f"{indent}{path.name}/ ({_count_files(path) or 'no files'})")
        lines += _tree_lines(path, depth - 1, limit, indent + "  ")
    if len(below) > limit:
        lines.append(f"{indent}... and {len(below) - limit} more folders")
    return lines


def _count_files(folder: Path) -> str:
    files = [Path(entry.name) for entry in _scan(folder) if not entry.is_dir()]
    suffixes = Counter((suffix_of(file) or file.suffix).lower() or file.name for file in files)
    return shortened(f"{count} {suffix}" for suffix, count in suffixes.most_common())
