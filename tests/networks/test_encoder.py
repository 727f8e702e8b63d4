import pytest
import torch
from torch import Tensor, nn

from networks.encoder import ENCODERS, Encoder, adapt_first_convolution

BLOCKS = {"resnet18": (2, 2, 2, 2), "wide_resnet50_2": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3)}


def normed(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    names = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{n}": (channels,) for n in names} | {f"{name}.num_batches_tracked": ()}


def torchvision_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of torchvision's resnet.py, written from its documentation."""
    basic = name == "resnet18"
    expansion, factor = (1, 1) if basic else (4, 2 if name.startswith("wide") else 1)
    shapes = {"conv1.weight": (64, 3, 7, 7), **normed("bn1", 64)}
    inputs = 64
    for stage, (blocks, planes) in enumerate(zip(BLOCKS[name], (64, 128, 256, 512), strict=True)):
        width, outputs = planes * factor, planes * expansion
        for block in range(blocks):
            at = f"layer{stage + 1}.{block}"
            if basic:
                kernels = [(width, inputs, 3), (outputs, width, 3)]
            else:
                kernels = [(width, inputs, 1), (width, width, 3), (outputs, width, 1)]
            for n, (out, into, kernel) in enumerate(kernels, start=1):
                shapes[f"{at}.conv{n}.weight"] = (out, into, kernel, kernel)
                shapes |= normed(f"{at}.bn{n}", out)
            if block == 0 and (stage > 0 or inputs != outputs):
                shapes[f"{at}.downsample.0.weight"] = (outputs, inputs, 1, 1)
                shapes |= normed(f"{at}.downsample.1", outputs)
            inputs = outputs
    return shapes | {"fc.weight": (1000, inputs), "fc.bias": (1000,)}


def torchvision_state_dict(name: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        k: torch.zeros(s, dtype=torch.long)
        if k.endswith("num_batches_tracked")
        else torch.rand(s, generator=generator) / 10
        for k, s in torchvision_shapes(name).items()
    }


@pytest.mark.parametrize(
    ("name", "parameters"), [("resnet18", 11_176_512), ("wide_resnet50_2", 66_834_240)]
)
def test_encoder_has_torchvisions_names_shapes_and_parameter_count(name, parameters):
    with torch.device("meta"):
        encoder = Encoder(name, in_channels=3, strides=(4, 8, 16, 32))
    expected = {k: s for k, s in torchvision_shapes(name).items() if not k.startswith("fc.")}
    assert {k: tuple(v.shape) for k, v in encoder.backbone.state_dict().items()} == expected
    assert sum(p.numel() for p in encoder.parameters()) == parameters


@pytest.mark.parametrize("name", ENCODERS)
def test_channels_and_strides_are_those_of_the_features(name):
    encoder = Encoder(name, in_channels=2, strides=(4, 16) if name == "resnet18" else (4,))
    features = encoder(torch.rand(1, 2, 32, 48))
    assert tuple(f.shape[1] for f in features) == encoder.channels
    for feature, stride in zip(features, encoder.strides, strict=True):
        assert feature.shape[2:] == (32 // stride, 48 // stride)


def test_stages_beyond_the_largest_stride_are_not_built():
    keys = Encoder("resnet18", strides=(8,)).state_dict()
    assert any("layer2" in k for k in keys)
    assert not any("layer3" in k or "layer4" in k for k in keys)


def test_a_deeper_read_out_does_not_change_the_finer_features():
    shallow, deep = Encoder("resnet18", strides=(4,)), Encoder("resnet18", strides=(4, 8))
    shallow.load_state_dict(deep.state_dict(), strict=False)
    image = torch.rand(1, 1, 32, 32)
    assert torch.equal(shallow(image)[0], deep(image)[0])


def test_wide_bottleneck_strides_in_its_3x3_convolution():
    with torch.device("meta"):
        block = Encoder("wide_resnet50_2", strides=(8,)).backbone.layer2[0]
    assert [c.stride for c in (block.conv1, block.conv2, block.conv3)] == [(1, 1), (2, 2), (1, 1)]


def test_features_equal_a_hand_written_forward_of_torchvisions_resnet18():
    state = torchvision_state_dict("resnet18")
    encoder = Encoder("resnet18", in_channels=3, strides=(4, 8))
    encoder.load_torchvision_state_dict(state)
    image = torch.rand(2, 3, 32, 32)

    def norm(x: Tensor, name: str) -> Tensor:
        keys = ("running_mean", "running_var", "weight", "bias")
        return nn.functional.batch_norm(x, *(state[f"{name}.{k}"] for k in keys))

    def conv(x: Tensor, name: str, **options: int) -> Tensor:
        return nn.functional.conv2d(x, state[f"{name}.weight"], **options)

    x = norm(conv(image, "conv1", stride=2, padding=3), "bn1").relu()
    x = nn.functional.max_pool2d(x, 3, stride=2, padding=1)
    for stage, features in zip((1, 2), encoder(image), strict=True):
        for block in (0, 1):
            at, stride = f"layer{stage}.{block}", 2 if stage == 2 and block == 0 else 1
            y = norm(conv(x, f"{at}.conv1", stride=stride, padding=1), f"{at}.bn1").relu()
            y = norm(conv(y, f"{at}.conv2", padding=1), f"{at}.bn2")
            if f"{at}.downsample.0.weight" in state:
                x = norm(conv(x, f"{at}.downsample.0", stride=stride), f"{at}.downsample.1")
            x = (x + y).relu()
        torch.testing.assert_close(features, x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("in_channels", [1, 2, 4])
def test_equal_channels_respond_like_the_same_image_in_colour(in_channels):
    state = torchvision_state_dict("resnet18")
    colour = Encoder("resnet18", in_channels=3, strides=(4,))
    other = Encoder("resnet18", in_channels=in_channels, strides=(4,))
    colour.load_torchvision_state_dict(state)
    other.load_torchvision_state_dict(state)
    image = torch.rand(1, 1, 32, 32)
    torch.testing.assert_close(
        other(image.repeat(1, in_channels, 1, 1))[0], colour(image.repeat(1, 3, 1, 1))[0]
    )


def test_first_convolution_of_the_same_channels_is_kept():
    weight = torch.rand(4, 3, 7, 7)
    assert torch.equal(adapt_first_convolution(weight, 3), weight)


def test_old_files_without_batch_counters_load():
    state = torchvision_state_dict("resnet18")
    state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    encoder = Encoder("resnet18", in_channels=3, strides=(4,))
    encoder.load_torchvision_state_dict(state)
    assert torch.equal(encoder.backbone.bn1.running_var, state["bn1.running_var"])


def test_state_dicts_of_other_networks_are_refused_by_name():
    encoder = Encoder("resnet18", strides=(4,))
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    state = torchvision_state_dict("resnet18")
    del state["bn1.running_mean"]
    state["layer1.0.conv3.weight"] = torch.zeros(1)
    state["layer1.1.conv1.weight"] = torch.zeros(64, 64, 1, 1)
    with pytest.raises(ValueError) as error:
        encoder.load_torchvision_state_dict(state)
    message = str(error.value)
    assert "missing: bn1.running_mean" in message
    assert "unknown: layer1.0.conv3.weight" in message
    assert "layer1.1.conv1.weight (64, 64, 1, 1) instead of (64, 64, 3, 3)" in message
    assert all(torch.equal(before[k], v) for k, v in encoder.state_dict().items())


def test_resnet34_weights_do_not_load_into_resnet50():
    with pytest.raises(ValueError, match="and .* more"):
        Encoder("resnet50", strides=(4,)).load_torchvision_state_dict(
            torchvision_state_dict("resnet18")
        )


def test_frozen_encoder_stays_as_it_is_in_train_mode():
    encoder = Encoder("resnet18", strides=(4,)).train()
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    features = encoder(torch.rand(2, 1, 32, 32, requires_grad=True))
    assert not any(m.training for m in encoder.modules())
    assert not any(f.requires_grad for f in features)
    assert not any(p.requires_grad for p in encoder.parameters())
    assert all(torch.equal(before[k], v) for k, v in encoder.state_dict().items())


def test_unfreezing_lets_it_learn_and_freezing_stops_it():
    encoder = Encoder("resnet18", strides=(4,))
    encoder.unfreeze()
    encoder.train()
    before = encoder.backbone.bn1.running_mean.clone()
    encoder(torch.rand(2, 1, 32, 32))[0].sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())
    assert not torch.equal(before, encoder.backbone.bn1.running_mean)
    encoder.freeze()
    assert not encoder.train().training


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet81"}, "encoder: .*Did you mean 'resnet18'"),
        ({"strides": (16, 8)}, r"strides: expected ascending .*got \(16, 8\)"),
        ({"strides": ()}, "strides"),
        ({"strides": (8, 8)}, "strides"),
        ({"strides": (2,)}, "strides"),
        ({"in_channels": 0}, "in_channels: expected at least 1"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Encoder(**arguments)
