"""Decoders that crash or never end cost their file, and nothing else."""

import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import SimpleITK as sitk
from torch.utils.data import DataLoader

from transforms import decoder
from transforms.errors import InputError
from transforms.limits import set_limits
from transforms.readers import read_image

WRAPPED = f"""
import resource, runpy, sys, os, time
sys.path.insert(0, {str(Path(decoder.__file__).parent)!r})
import decoder_process
sound = decoder_process.decode
def decode(*request):
    found = sound(*request)
    spacing = found["spacing"][0]
    if spacing == 2:
        os.kill(os.getpid(), 11)
    if spacing == 3:
        time.sleep(1000)
    if spacing == 4:
        raise MemoryError(resource.getrlimit(resource.RLIMIT_AS)[0] / 2**30)
    return found
decoder_process.decode = decode
decoder_process.main()
"""


@pytest.fixture
def fragile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A decoder that crashes at a spacing of 2 mm, never ends at 3, and tells its bound at 4."""
    program = tmp_path / "fragile.py"
    program.write_text(WRAPPED)
    decoder.stop_decoder()
    monkeypatch.setattr(decoder, "_PROGRAM", program)
    yield
    set_limits()
    decoder.stop_decoder()


def volume(path: Path, spacing: float = 1.0) -> Path:
    values = np.random.default_rng(0).integers(0, 99, (4, 5, 6)).astype(np.int16)
    image = sitk.GetImageFromArray(values)
    image.SetSpacing((spacing, 1.0, 1.0))
    sitk.WriteImage(image, str(path))
    return path


def test_a_crash_costs_one_file(tmp_path: Path, fragile: None) -> None:
    for name in ("a.nrrd", "b.mha"):
        with pytest.raises(InputError, match=rf"{name}: .*ended the decoder's process"):
            read_image(volume(tmp_path / name, spacing=2))
        assert read_image(volume(tmp_path / "sound.mha")).shape == (1, 6, 5, 4)


def test_a_file_has_its_time(tmp_path: Path, fragile: None) -> None:
    set_limits(seconds=2)
    with pytest.raises(InputError, match=r"a\.nrrd: .*within 2 s.*--max_seconds"):
        read_image(volume(tmp_path / "a.nrrd", spacing=3))
    assert read_image(volume(tmp_path / "sound.nrrd")).shape == (1, 6, 5, 4)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs limits of memory")
def test_a_decoder_has_its_memory(tmp_path: Path, fragile: None) -> None:
    set_limits(gigabytes=2)
    with pytest.raises(InputError, match=r"a\.nrrd: .*\(ValueError: 6\.0\)"):
        read_image(volume(tmp_path / "a.nrrd", spacing=4))


def test_mistakes_of_the_reader_itself_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow_disk(path: Path) -> None:
        raise TimeoutError("the disk did not answer")

    monkeypatch.setattr("transforms.readers.read_nifti", slow_disk)
    (tmp_path / "a.nii").write_bytes(b"1")
    with pytest.raises(InputError, match="the disk did not answer"):
        read_image(tmp_path / "a.nii")


def shape(path: Path) -> tuple[int, ...]:
    return tuple(read_image(path).shape)


def test_worker_processes_have_decoders_of_their_own(tmp_path: Path) -> None:
    paths = [volume(tmp_path / name) for name in ("a.nrrd", "b.nrrd")]
    shape(paths[0])  # starts one here
    loader = DataLoader(paths, batch_size=1, num_workers=2, collate_fn=lambda one: shape(one[0]))
    assert list(loader) == [(1, 6, 5, 4)] * 2


def test_other_readers_have_their_time_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fragile: None
) -> None:
    monkeypatch.setattr("transforms.readers.read_nifti", lambda path: Event().wait())
    (tmp_path / "a.nii").write_bytes(b"1")
    set_limits(seconds=0.2)
    with pytest.raises(InputError, match=r"a\.nii: .*within 0\.2 s"):
        read_image(tmp_path / "a.nii")
