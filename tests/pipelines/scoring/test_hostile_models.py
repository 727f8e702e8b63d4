"""Model files that are damaged, foreign, incomplete or meant to harm: one paragraph each."""

import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipelines.data.cases import Case
from pipelines.scoring.model_file import MODEL_NAME, load_scorer, read_model
from pipelines.scoring.predictor import Predictor
from transforms.errors import InputError

WriteModel = Callable[..., dict[str, Any]]
Content = dict[str, Any]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    return []


@pytest.fixture
def model(whole: list[bytes], request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A good model file, made once."""
    path = tmp_path / "models" / MODEL_NAME
    if not whole:
        request.getfixturevalue("write_model")()
        whole.append(path.read_bytes())
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(whole[0])
    return path


def told(path: Path) -> str:
    """The paragraph that reading and rebuilding the model ends in."""
    with pytest.raises(InputError) as caught:
        load_scorer(read_model(path))
    message = str(caught.value)
    assert message.startswith("ckpt_dir: ") and (str(path) in message or "the model" in message)
    assert "\n" not in message and len(message) < 900
    return message


def flip(path: Path, record: str) -> None:
    """Flips one bit in the middle of a record of the archive."""
    with zipfile.ZipFile(path) as archive:
        (info,) = [one for one in archive.infolist() if one.filename.endswith(record)]
    data = bytearray(path.read_bytes())
    name, extra = struct.unpack("<HH", data[info.header_offset + 26 : info.header_offset + 30])
    data[info.header_offset + 30 + name + extra + info.file_size // 2] ^= 16
    path.write_bytes(data)


def largest_record(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        return max(archive.infolist(), key=lambda one: one.file_size).filename


def packed_again(path: Path) -> None:
    """Deflates all records, as a bomb would."""
    with zipfile.ZipFile(path) as archive:
        records = {one.filename: archive.read(one) for one in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in records.items():
            archive.writestr(name, data)


class Harmful:
    """Pickled, it would call a program."""

    def __reduce__(self) -> Any:
        return os.system, ("touch harmed",)


def with_code(path: Path) -> None:
    torch.save({"format": 3, "model": Harmful()}, path)


def plain_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"format": 3, "harm": Harmful()}))


def old_serialisation(path: Path) -> None:
    content = torch.load(path, weights_only=True)
    torch.save(content, path, _use_new_zipfile_serialization=False)


DAMAGED: dict[str, Callable[[Path], object]] = {
    "a flipped bit in the weights": lambda path: flip(path, largest_record(path)),
    "a flipped bit in the values": lambda path: flip(path, "data.pkl"),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "the end missing": lambda path: path.write_bytes(path.read_bytes()[:-40]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("weights"),
    "zeros": lambda path: path.write_bytes(bytes(4096)),
    "packed again": packed_again,
    "with code": with_code,
    "a pickle with code": plain_pickle,
    "without checksums": old_serialisation,
    "an archive of something": lambda path: zipfile.ZipFile(path, "w").close(),
    "a scripted module": lambda path: torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), path),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_ends_in_a_paragraph(
    name: str, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model.parent)
    DAMAGED[name](model)
    assert "is damaged or no PyTorch file" in told(model)
    assert list(model.parent.iterdir()) == [model]


def changed(path: Path, change: Callable[[Content], object]) -> None:
    content = torch.load(path, weights_only=True)
    replaced = change(content)
    torch.save(content if replaced is None else replaced, path)


def weights(content: Content, name: str, value: Tensor | None) -> None:
    """Replaces or removes a tensor; of the network the first large one."""
    tensors = content["model"]
    if name == "network":
        name = max(
            (k for k in tensors if k.startswith("detector")), key=lambda k: len(tensors[k].shape)
        )
    if value is None:
        del tensors[name]
    elif value.dim() == 0 and tensors[name].dim() > 0:
        tensors[name].flatten()[0] = value
    else:
        tensors[name] = value


NAN, INF = torch.tensor(float("nan")), torch.tensor(float("inf"))
QUANTILES = "calibration.quantiles"
WRONG: dict[str, tuple[Callable[[Content], object], str]] = {
    "a foreign state dict": (lambda c: {"fc.weight": torch.ones(2, 2)}, "format"),
    "a list": (lambda c: [1, 2], "found 'list'"),
    "another format": (lambda c: c | {"format": 99}, "found 99"),
    "format as text": (lambda c: c | {"format": "3"}, "found '3'"),
    "format as a flag": (lambda c: c | {"format": True}, "found True"),
    "no weights": (lambda c: c.pop("model") and None, "model"),
    "no modalities": (lambda c: c.pop("modalities") and None, "modalities"),
    "no split": (lambda c: c.pop("split") and None, "split"),
    "modalities as text": (lambda c: c | {"modalities": "flair"}, "modalities"),
    "no modality": (lambda c: c | {"modalities": []}, "modalities"),
    "volumetric as text": (lambda c: c | {"volumetric": "yes"}, "volumetric"),
    "a rate of 2": (lambda c: c | {"target_fpr": 2.0}, "target_fpr"),
    "scores of NaN": (lambda c: c | {"case_scores": [0.0, float("nan")]}, "case_scores"),
    "a split as a list": (lambda c: c | {"split": ["a"]}, "split"),
    "weights as numbers": (lambda c: c | {"model": {"a": 1.0}}, "model"),
    "weights as a tensor": (lambda c: c | {"model": torch.ones(3)}, "model"),
    "an unknown detector": (lambda c: c | {"detector": "aeflo"}, "'aeflow'"),
    "a detector as a number": (lambda c: c | {"detector": 3}, "detector"),
    "an unknown setting": (lambda c: c["config"].update(wings=2), "wings"),
    "a setting of another type": (lambda c: c["config"].update(flow_steps="two"), "rebuilt"),
    "a setting too large": (lambda c: c["config"].update(hidden=10**9), "rebuilt"),
    "another width": (lambda c: c["config"].update(decoder_width=8), "shape"),
    "an unknown fusion": (lambda c: c["fusion"].update(score="guess"), "guess"),
    "a size not divisible": (lambda c: c["preprocessing"].update(image_size=[7, 7]), "image_size"),
    "an unknown preprocessing": (lambda c: c["preprocessing"].update(blur=2), "blur"),
    "intensity missing": (lambda c: c["preprocessing"].pop("intensity") and None, "intensity"),
    "a pool missing": (lambda c: c["config"].pop("head_pool") and None, "config: head_pool"),
    "no margin": (lambda c: c["fusion"].pop("margin") and None, "fusion: margin"),
    "a tensor missing": (lambda c: weights(c, "network", None), "missing"),
    "a tensor of another shape": (lambda c: weights(c, QUANTILES, torch.ones(7)), "shape"),
    "a tensor of another kind": (lambda c: weights(c, QUANTILES, torch.ones(1001).long()), "int64"),
    "a tensor more": (lambda c: c["model"].update(further=torch.ones(2)), "further"),
    "a tensor that is repeated": (
        lambda c: c["model"].update(further=torch.ones(1).expand(2**40)), "further"
    ),
    "NaN in the weights": (lambda c: weights(c, "network", NAN), "not finite"),
    "infinity in the weights": (lambda c: weights(c, "network", INF), "not finite"),
    "NaN in the calibration": (lambda c: weights(c, QUANTILES, NAN), "not finite"),
    "no threshold": (lambda c: weights(c, "calibration.threshold", INF), "not finite"),
    "not calibrated": (
        lambda c: weights(c, "calibration.n_normal", torch.tensor(0)), "calibrated"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_content_ends_in_a_paragraph(name: str, model: Path) -> None:
    change, said = WRONG[name]
    changed(model, change)
    assert said in told(model)


def test_scores_that_are_not_finite_are_told(model: Path, write_volume: Any) -> None:
    def grow(content: Content) -> None:
        for name, value in content["model"].items():
            if name.startswith("detector") and value.is_floating_point():
                content["model"][name] = value * 1e30

    changed(model, grow)
    with pytest.raises(InputError, match="finite scores"):
        Predictor(model)(Case("a", "a", (write_volume("a.nii.gz"),)))


def test_a_missing_link_and_a_pipe_are_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / MODEL_NAME)
    with pytest.raises(InputError, match="there is no model file"):
        read_model(tmp_path)


def test_what_scores_alone_may_know_no_patients(model: Path) -> None:
    kept_back = ("split", "notes")
    changed(model, lambda c: {k: v for k, v in c.items() if k not in kept_back})
    with pytest.raises(InputError, match="split"):
        read_model(model)
    assert Predictor(model).scorer.calibrated


def test_a_good_model_is_read(model: Path) -> None:
    content: Mapping[str, Any] = read_model(model)
    assert load_scorer(content).calibrated
    assert io.BytesIO(model.read_bytes()).read(2) == b"PK"
