"""Decoders that crash or never end cost their file, and nothing else."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom.data import get_testdata_file
from torch.utils.data import DataLoader

from transforms import decoder
from transforms.errors import InputError
from transforms.limits import set_limits
from transforms.readers import read_image

WRAPPED = f"""
import os, resource, sys, time
sys.path.insert(0, {str(Path(decoder.__file__).parent)!r})
import decoder_process
sound = decoder_process.decode
def decode(*request):
    what = open({{plan!r}}).read()
    if what == "crash":
        os.kill(os.getpid(), 11)
    if what == "sleep":
        time.sleep(1000)
    if what == "tell":
        raise MemoryError(resource.getrlimit(resource.RLIMIT_AS)[0] / 2**30)
    return sound(*request)
decoder_process.decode = decode
decoder_process.main()
"""
COMPRESSED = Path(str(get_testdata_file("MR_small_RLE.dcm", download=False)))
PLAIN = Path(str(get_testdata_file("MR_small.dcm", download=False)))


@pytest.fixture
def fragile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """A decoder that can be told to crash, to sleep, or to tell what memory it may take."""
    program, plan = tmp_path / "fragile.py", tmp_path / "plan"
    program.write_text(WRAPPED.format(plan=str(plan)))
    plan.write_text("")
    decoder.stop_decoder()
    monkeypatch.setattr(decoder, "_PROGRAM", program)
    yield plan.write_text
    set_limits()
    decoder.stop_decoder()


def test_compressed_files_are_decoded_as_others_are(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_image(COMPRESSED), read_image(PLAIN))
    picture = np.random.default_rng(0).integers(0, 2**16, (8, 9, 3)).astype(np.uint16)
    sitk.WriteImage(sitk.GetImageFromArray(picture, isVector=True), str(tmp_path / "deep.png"))
    np.testing.assert_array_equal(read_image(tmp_path / "deep.png"), np.moveaxis(picture, -1, 0))


def test_a_crash_costs_one_file(fragile: Callable[[str], Any]) -> None:
    read_image(COMPRESSED)
    for _ in range(2):
        fragile("crash")
        with pytest.raises(InputError, match=r"RLE\.dcm: .*ended the decoder's process"):
            read_image(COMPRESSED)
        read_image(PLAIN)
        fragile("")
        read_image(COMPRESSED)


def test_a_file_has_its_time(fragile: Callable[[str], Any]) -> None:
    set_limits(seconds=2)
    fragile("sleep")
    with pytest.raises(InputError, match=r"RLE\.dcm: .*within 2 s.*--max_seconds"):
        read_image(COMPRESSED)
    fragile("")
    read_image(COMPRESSED)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs limits of memory")
def test_a_decoder_has_its_memory(fragile: Callable[[str], Any]) -> None:
    set_limits(gigabytes=2)
    fragile("tell")
    with pytest.raises(InputError, match=r"RLE\.dcm: ") as caught:
        read_image(COMPRESSED)
    assert str(caught.value.__cause__) == "6.0"


def test_mistakes_of_the_reader_itself_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow_disk(path: Path) -> None:
        raise TimeoutError("the disk did not answer")

    monkeypatch.setattr("transforms.readers.read_nifti", slow_disk)
    (tmp_path / "a.nii").write_bytes(b"1")
    with pytest.raises(InputError, match="the disk did not answer"):
        read_image(tmp_path / "a.nii")


def shape(paths: list[Path]) -> tuple[int, ...]:
    return tuple(read_image(paths[0]).shape)


def test_worker_processes_have_decoders_of_their_own() -> None:
    shape([COMPRESSED])  # starts one here
    loader = DataLoader([COMPRESSED] * 2, batch_size=1, num_workers=2, collate_fn=shape)  # type: ignore[arg-type]
    assert list(loader) == [(1, 64, 64)] * 2


def test_other_readers_have_their_time_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fragile: Callable[[str], Any]
) -> None:
    monkeypatch.setattr("transforms.readers.read_nifti", lambda path: Event().wait())
    (tmp_path / "a.nii").write_bytes(b"1")
    set_limits(seconds=0.2)
    with pytest.raises(InputError, match=r"a\.nii: .*within 0\.2 s"):
        read_image(tmp_path / "a.nii")
