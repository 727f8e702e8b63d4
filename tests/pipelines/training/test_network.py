"""Building networks, with local weights."""

import hashlib
from pathlib import Path

import pytest
import torch
from torch import Tensor

from networks import Encoder
from networks.detectors.aeflow import AEFlowDetector
from pipelines.training.network import (
    make_detector,
    pretraining_wanted,
    read_encoder_weights,
)
from transforms.errors import InputError


def build(seed: int = 0, encoder: str = "resnet18", weights: Path | None = None) -> AEFlowDetector:
    built = make_detector(
        "aeflow",
        None if weights is None else str(weights),
        seed=seed,
        encoder=encoder,
        flow_strides=[8],
        flow_steps=1,
        hidden=8,
        decoder_width=4,
    )
    assert isinstance(built, AEFlowDetector)
    return built


def same(first: AEFlowDetector, second: AEFlowDetector) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state dict as torchvision has it: red, green and blue, and a classifier."""
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    state = Encoder("resnet18", in_channels=3, strides=(8, 32)).backbone.state_dict()
    torch.save(state | {"fc.weight": torch.zeros(10, 512)}, path)
    return path


def test_the_seed_alone_decides_the_weights() -> None:
    first = build(seed=3)
    torch.manual_seed(99)
    after = torch.get_rng_state()
    assert same(first, build(seed=3))
    assert torch.equal(torch.get_rng_state(), after)  # and the global generator is left alone
    other = build(seed=4)
    assert not same(first, other)
    one, two = (built.network.encoder.backbone.conv1.weight for built in (first, other))
    assert not torch.equal(one, two)


def test_given_weights_reach_the_encoder_alone(weights: Path) -> None:
    plain, loaded = build().network, build(weights=weights).network
    state = read_encoder_weights(weights)
    found = loaded.encoder.backbone.state_dict()
    assert torch.equal(found["layer2.0.conv1.weight"], state["layer2.0.conv1.weight"])
    torch.testing.assert_close(found["conv1.weight"], state["conv1.weight"].sum(1, keepdim=True))
    assert loaded.encoder.frozen
    for name, value in plain.decoder.state_dict().items():
        assert torch.equal(value, loaded.decoder.state_dict()[name])


def test_weights_of_another_network_are_told(weights: Path) -> None:
    with pytest.raises(InputError, match="encoder_weights: .* does not fit --encoder resnet34"):
        build(encoder="resnet34", weights=weights)


def test_the_checksum_is_checked(weights: Path) -> None:
    right = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert read_encoder_weights(weights, right.upper())
    with pytest.raises(InputError, match=f"encoder_sha256: .* has SHA-256 {right}, expected abc"):
        make_detector("aeflow", str(weights), "abc", flow_strides=[8], flow_steps=1)


def test_a_checksum_of_no_weights_is_told() -> None:
    with pytest.raises(InputError, match="encoder_sha256: expected the weights"):
        make_detector("aeflow", encoder_sha256="abc", flow_strides=[8], flow_steps=1)


def test_missing_weights_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="encoder_weights: there is no file"):
        build(weights=tmp_path / "absent.pth")


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n", b"PK\x03\x04" + bytes(50)])
def test_a_foreign_file_is_told(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(InputError, match="is no PyTorch file of plain tensors"):
        read_encoder_weights(path)


@pytest.mark.parametrize("content", [{"state_dict": {}}, [1], {"epoch": 3}])
def test_anything_but_a_state_dict_is_told(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(InputError, match="expected a state dict"):
        read_encoder_weights(tmp_path / "weights.pth")


def test_an_unknown_part_is_told() -> None:
    with pytest.raises(ValueError, match="Did you mean 'resnet18'"):
        build(encoder="resnet19")


def test_an_unknown_method_is_told() -> None:
    with pytest.raises(InputError, match="detector: expected one of .*aeflow.*Did you mean"):
        make_detector("aeflo")


@pytest.mark.parametrize(
    ("name", "dims", "kind"), [("donut", 2, "images"), ("vae", 3, "patches of volumes")]
)
def test_a_method_for_other_data_is_told(name: str, dims: int, kind: str) -> None:
    with pytest.raises(
        InputError, match=f"detector: expected one for {kind} .*ae.*, found '{name}'"
    ):
        make_detector(name, spatial_dims=dims)


def test_options_reach_the_method(weights: Path) -> None:
    built = make_detector("aeflow", in_channels=2, flow_strides=[8], flow_steps=1, alpha=0.25)
    assert built.in_channels == 2 and built.config["alpha"] == 0.25
    assert built.config["flow_steps"] == 1


def test_the_weights_need_no_gradient_graph(weights: Path) -> None:
    state: dict[str, Tensor] = read_encoder_weights(weights)
    assert all(not value.requires_grad for value in state.values())


@pytest.mark.parametrize(
    ("epochs", "minutes", "weights", "wanted"),
    [
        (2, 0.0, None, True),
        (0, 0.5, None, True),
        (0, 0.0, None, False),
        (2, 0.0, "weights.pth", False),
        (0, 0.5, "weights.pth", False),
    ],
)
def test_given_weights_stand_in_for_the_pretraining(
    epochs: int, minutes: float, weights: str | None, wanted: bool
) -> None:
    assert pretraining_wanted(epochs, minutes, weights) is wanted
