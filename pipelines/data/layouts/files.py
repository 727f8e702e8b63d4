"""Finding image files below a folder, and telling what a folder holds."""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from transforms.errors import InputError
from transforms.nifti import NIFTI_SUFFIXES
from transforms.pictures import PICTURE_SUFFIXES
from transforms.volumes import ITK_SUFFIXES

DICOM = (".dcm", ".dicom", ".ima")
_SPECIAL = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def suffix_of(path: Path) -> str:
    """Return the image suffix as written, such as ``.nii.gz``; empty for any other name."""
    lower = path.name.lower()
    for suffix in (*NIFTI_SUFFIXES, *ITK_SUFFIXES, *PICTURE_SUFFIXES, *DICOM):
        if lower.endswith(suffix):
            return path.name[len(path.name) - len(suffix) :]
    return ""


def stem_of(path: Path) -> str:
    """Return the name without its image suffix; other dots, as in DICOM UIDs, stay."""
    suffix = suffix_of(path)
    return path.name[: len(path.name) - len(suffix)]


def is_nifti(path: Path) -> bool:
    """Tell a NIfTI file by its name."""
    return path.name.lower().endswith(NIFTI_SUFFIXES)


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
    return path.name.lower().endswith((*NIFTI_SUFFIXES, *ITK_SUFFIXES))


def is_image(path: Path) -> bool:
    """Tell whether a file is a picture, a volume or a DICOM file."""
    return bool(suffix_of(path)) or is_dicom(path)


def entries(folder: Path) -> list[Path]:
    """List the files and folders in a folder, sorted, without hidden ones; empty for a file."""
    return [Path(entry.path) for entry in _usable(folder)]


def subfolders(folder: Path) -> dict[str, Path]:
    """Map the names of a folder's subfolders, exactly as spelled, to their paths.

    Links to the folder itself or to one above it are left out: they would never end.
    """
    found = [entry for entry in _usable(folder) if entry.is_dir()]
    if any(entry.is_symlink() for entry in found):
        real = Path(os.path.realpath(folder))
        found = [entry for entry in found if not real.is_relative_to(os.path.realpath(entry))]
    return {entry.name: Path(entry.path) for entry in found}


def scan(folder: Path) -> list[os.DirEntry[str]]:
    """List what a folder holds, sorted, without hidden files; empty for anything else.

    Raises:
        OSError: if it cannot be read.
    """
    # Directory entries know their kind: a call per file would take seconds in large data sets.
    if not folder.is_dir():
        return []
    with os.scandir(folder) as found:
        shown = [e for e in found if not e.name.startswith(".") and e.name != "__MACOSX"]
    return sorted(shown, key=lambda entry: entry.name)


def problem_of(entry: os.DirEntry[str]) -> str:
    """Why an entry is neither a file nor a folder that can be used; "" if it is one."""
    if printable(entry.name) != entry.name:
        return "its name is no UTF-8. Rename it."
    if entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False):
        return ""
    try:
        return special_kind(entry.stat().st_mode)
    except FileNotFoundError:
        return "a link to nothing."
    except OSError as error:
        told = "a link to itself" if error.errno == errno.ELOOP else error.strerror
        return f"{told}."


def special_kind(mode: int) -> str:
    """What a mode of `os.stat` tells that is neither a file nor a folder; "" for these."""
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return ""
    return f"{_SPECIAL.get(stat.S_IFMT(mode), 'something unknown')}, no file."


def printable(text: str) -> str:
    """A text in which what is no UTF-8, as bytes of a path may be, is written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def folders_to_depth(root: Path, depth: int) -> Iterator[list[Path]]:
    """Yield the folders of one level after the other, from ``[root]`` down to `depth`."""
    level = [root]
    yield level
    for _ in range(depth):
        level = [folder for parent in level for folder in subfolders(parent).values()]
        yield level


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


def _usable(folder: Path) -> list[os.DirEntry[str]]:
    try:
        return [entry for entry in scan(folder) if not problem_of(entry)]
    except OSError as error:
        raise InputError(
            f"{folder}: expected a folder that can be read, but listing it failed "
            f"({error.strerror}). Check its permissions."
        ) from error


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
    files = [Path(entry.name) for entry in _usable(folder) if not entry.is_dir()]
    suffixes = Counter((suffix_of(file) or file.suffix).lower() or file.name for file in files)
    return shortened(f"{count} {suffix}" for suffix, count in suffixes.most_common())
