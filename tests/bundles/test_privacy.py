"""What a file tells of a patient stays in it: planted words are looked for in all that is made."""

import base64
import gzip
import io
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from PIL import Image, PngImagePlugin

from pipelines.export import formats

PLANTED = "Zzplanted"
TEXTS = ("PN", "LO", "SH", "ST", "LT", "UT", "UC", "AE")
TRAINING = {"pretrain_epoch_size": 16, "fractions": [0.5, 0.5, 0.0], "target_fpr": 0.3}


def planted_dicom(path: Path, values: np.ndarray, number: int) -> Path:
    """An MR slice with the word in every element that takes text, and in a private one."""
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.MRImageStorage
    meta.MediaStorageSOPInstanceUID = f"1.2.4.{number}"
    one = pydicom.dataset.FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    one.is_little_endian, one.is_implicit_VR = True, False
    for tag, (vr, _, _, retired, keyword) in pydicom.datadict.DicomDictionary.items():
        if vr in TEXTS and not retired and tag >> 16 not in (0x0000, 0x0002):
            one.add_new(tag, vr, f"{PLANTED} {keyword}"[:16])
    one.private_block(0x000B, PLANTED, create=True).add_new(1, "LO", PLANTED)
    one.SOPClassUID, one.SOPInstanceUID = meta.MediaStorageSOPClassUID, f"1.2.4.{number}"
    one.SeriesInstanceUID, one.Modality, one.PatientBirthDate = "1.2.3", "MR", "19020304"
    one.ImagePositionPatient = [0, 0, 1.5 * number]
    one.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    one.PixelSpacing = [2, 1]
    one.Rows, one.Columns = values.shape
    one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
    one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, 0
    one.PixelData = values.astype(np.uint16).tobytes()
    one["PixelData"].VR = "OW"
    path.parent.mkdir(parents=True, exist_ok=True)
    one.save_as(path)
    return path


def planted(path: Path, seed: int) -> Path:
    """An image with the word wherever its format has room for text; a folder is a DICOM series."""
    path.parent.mkdir(parents=True, exist_ok=True)
    source = np.random.default_rng(seed)
    if path.suffix in (".png", ".jpg"):
        text = PngImagePlugin.PngInfo()
        text.add_text("Patient", PLANTED)
        text.add_itxt("Comment", PLANTED, zip=True)
        exif = Image.Exif()
        exif[0x010E] = exif[0x013B] = PLANTED
        picture = Image.fromarray(source.integers(1, 256, (40, 30), dtype=np.uint8))
        picture.save(path, pnginfo=text, exif=exif, comment=PLANTED)
        return path
    values = source.normal(100, 20, (20, 24, 8)).clip(1).astype(np.float32)
    values[:3] = values[-3:] = values[:, :3] = values[:, -3:] = 0
    if path.name.endswith(".nii.gz"):
        image = nib.Nifti1Image(values, np.diag([2.0, 2, 1.5, 1]))
        for field in ("descrip", "aux_file", "intent_name", "db_name", "data_type"):
            image.header[field] = PLANTED.encode()
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", PLANTED.encode()))
        nib.save(image, path)
    elif path.suffix in (".nrrd", ".mha"):
        image = sitk.GetImageFromArray(values.T)
        for key in ("content", "Patient", "Comment", "AcquisitionDate"):
            image.SetMetaData(key, PLANTED)
        sitk.WriteImage(image, str(path))
    else:
        for number, plane in enumerate(values.T):
            planted_dicom(path / f"{number}.dcm", plane, number)
    return path


def written(folder: Path) -> Iterator[tuple[str, bytes]]:
    """The contents of all files below a folder, unpacked where they are packed."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.name, path.name.encode()
            yield from unpacked(path.name, path.read_bytes())


def unpacked(name: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    yield name, content
    if content[:2] == b"\x1f\x8b":
        yield from unpacked(name, gzip.decompress(content))
    elif zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in archive.namelist():
                yield from unpacked(f"{name}/{member}", archive.read(member))
    for found in re.findall(rb"[A-Za-z0-9+/]{40,}={0,2}", content) if b"<html" in content else ():
        yield from unpacked(name, base64.b64decode(found + b"=" * (-len(found) % 4)))


def leaks(folder: Path) -> list[str]:
    words = [w for n in (PLANTED, "19020304") for w in (n.encode(), n.encode("utf-16-le"))]
    return sorted({n for n, content in written(folder) if any(w in content for w in words)})


@pytest.mark.parametrize(
    ("kinds", "new"),
    [
        ((".nii.gz", ".nrrd", ".mha", ""), ("a.nii.gz", "b.nrrd", "c.mha", "series", "d.png")),
        ((".png", ".jpg"), ("a.png", "b.jpg", "c.nii.gz")),
    ],
    ids=["volumes", "pictures"],
)
def test_no_planted_word_is_written(
    kinds: tuple[str, ...],
    new: tuple[str, ...],
    train: Callable[..., None],
    mistake_of: Callable[..., str],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    for number in range(12):
        planted(data / "train" / "normal" / f"n{number}{kinds[number % len(kinds)]}", number)
    for part in ("normal", "anomalous"):
        for number, kind in enumerate(kinds):
            planted(data / "test" / part / f"{part}{number}{kind}", 20 + number)
    for number, name in enumerate(new):
        planted(tmp_path / "new" / name, 30 + number)
    train(data, out, **TRAINING)
    models = {"ckpt_dir": str(out / "models")}
    given = {"input": str(tmp_path / "new"), "output_dir": str(out / "inference"), **models}
    (out / "mistake.txt").write_text(mistake_of("inferring", "inference.json", **given))
    formats.main(["--ckpt_dir", models["ckpt_dir"], "--format", "torch_export"])
    told = capfd.readouterr()
    (out / "told.txt").write_text(told.out + told.err)
    assert len(list((out / "inference").glob("panels/*"))) == len(new) - 1
    assert leaks(out) == []
    (out / "check.txt.gz").write_bytes(gzip.compress(PLANTED.encode()))
    assert leaks(out) == ["check.txt.gz"]
