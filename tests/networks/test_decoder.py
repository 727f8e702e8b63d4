import pytest
import torch

from networks.decoder import Decoder


@pytest.mark.parametrize(
    ("stride", "size"), [(2, (2, 3)), (4, (3,)), (4, (1, 2, 3)), (16, (2, 3)), (32, (2, 3))]
)
def test_decoder_undoes_the_stride(stride, size):
    decoder = Decoder(5, 2, stride=stride, width=2, spatial_dims=len(size))
    expected = (1, 2, *(side * stride for side in size))
    assert decoder(torch.randn(1, 5, *size)).shape == expected


def test_widths_halve_at_every_upsampling():
    decoder = Decoder(5, 1, stride=16, width=3)
    widths = [block.conv.out_channels for block in decoder.upsample]
    assert widths == [24, 12, 6, 3]


def test_batch_equals_one_by_one_in_train_mode():
    decoder = Decoder(4, 1, stride=8, width=2).double().train()
    latent = torch.randn(3, 4, 2, 2, dtype=torch.float64)
    together = decoder(latent)
    for b in range(3):
        torch.testing.assert_close(decoder(latent[b : b + 1])[0], together[b])


@pytest.mark.parametrize("size", [(16,), (4, 4), (3, 2, 2)])
def test_output_is_unbounded_and_of_moderate_size_at_the_start(size):
    decoder = Decoder(64, 1, stride=16, width=8, spatial_dims=len(size))
    image = decoder(torch.randn(4, 64, *size))
    assert image.min() < 0.0
    assert 0.05 < image.std() < 5.0
    assert decoder(1e3 * torch.randn(4, 64, *size)).abs().max() > 10.0


def test_a_local_change_stays_local():
    decoder = Decoder(4, 1, stride=4, width=4)
    latent = torch.randn(1, 4, 8, 8)
    changed = latent.clone()
    changed[:, :, 0, 0] += 1.0
    difference = (decoder(changed) - decoder(latent)).abs()
    assert difference[..., :4, :4].max() > 0
    assert difference[..., 12:, 12:].max() == 0


@pytest.mark.parametrize(
    ("arguments", "message"), [({"stride": 12}, "stride"), ({"width": 0}, "width")]
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=f"{message}: expected"):
        Decoder(4, 1, **arguments)
