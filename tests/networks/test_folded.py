import copy

import pytest
import torch
from torch import nn

from networks.encoder import Encoder


def learnt(encoder: Encoder) -> Encoder:
    """The encoder with BatchNorms as after a training."""
    torch.manual_seed(0)
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
    encoder.freeze()
    return encoder


@pytest.mark.parametrize(
    ("name", "channels", "size"),
    [("resnet18", 1, (32, 48)), ("resnet50", 3, (32, 32)), ("wide_resnet50_2", 2, (64, 32))],
)
def test_a_frozen_encoder_gives_what_it_gave_unfolded(name, channels, size):
    encoder = learnt(Encoder(name, channels, (4, 8, 16, 32))).double()
    image = torch.rand(2, channels, *size, dtype=torch.float64)
    for found, expected in zip(encoder(image), encoder.backbone.stages(image), strict=True):
        torch.testing.assert_close(found, expected)
        assert found.is_contiguous(memory_format=torch.channels_last)


def test_new_weights_are_folded_anew():
    encoder, image = learnt(Encoder(strides=(4,))), torch.rand(1, 1, 32, 32)
    twin, other = copy.deepcopy(encoder), learnt(Encoder(strides=(4,)))
    encoder(image), twin(image)
    nn.init.constant_(other.backbone.conv1.weight, 0.02)
    for one in (encoder, twin):
        one.load_state_dict(other.state_dict())
        torch.testing.assert_close(one(image), other(image))
    other.unfreeze()
    nn.init.constant_(other.backbone.conv1.weight, 0.01)
    other.freeze()
    assert not torch.allclose(encoder(image)[0], other(image)[0])


def test_autocast_decides_the_precision():
    encoder, image = learnt(Encoder(strides=(4,))), torch.rand(1, 1, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        (reduced,) = encoder(image)
    assert reduced.dtype == torch.bfloat16
    torch.testing.assert_close(reduced.float(), encoder(image)[0], atol=0.1, rtol=0.1)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_gpu_s_fused_convolutions_give_the_same(dtype):
    encoder = learnt(Encoder("resnet50", 3, (4, 8, 16, 32))).cuda()
    image = torch.rand(2, 3, 64, 64, device="cuda")
    with torch.autocast("cuda", dtype):
        found = encoder(image)
    for one, expected in zip(found, encoder.backbone.stages(image), strict=True):
        assert one.dtype == dtype
        assert ((one.float() - expected).norm() / expected.norm()).item() < 0.02
