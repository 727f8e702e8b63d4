import pytest
import torch

from networks.subnets import SUBNETS


@pytest.mark.parametrize("spatial_dims", [1, 2, 3])
@pytest.mark.parametrize("name", SUBNETS)
def test_subnet_keeps_the_shape_and_starts_at_zero(name, spatial_dims):
    subnet = SUBNETS[name](3, 4, hidden=5, spatial_dims=spatial_dims)
    raw = subnet(torch.randn(2, 3, *[4, 3, 2][:spatial_dims]))
    assert raw.shape == (2, 4, *[4, 3, 2][:spatial_dims])
    assert not raw.any()


@pytest.mark.parametrize("name", SUBNETS)
def test_subnet_sees_its_neighbourhood(name, randomise):
    subnet = randomise(SUBNETS[name](2, 2, hidden=4), 1)
    x = torch.zeros(1, 2, 7, 7)
    changed = x.clone()
    changed[0, :, 3, 3] = 1.0
    difference = (subnet(changed) - subnet(x)).abs().sum(dim=1)[0]
    assert difference[2, 3] > 0
    assert difference[0, 0] == 0


@pytest.mark.parametrize(("name", "convolutions"), [("conv", [3, 1]), ("resnet", [3, 3, 1, 1])])
def test_subnet_has_the_papers_kernels(name, convolutions):
    kernels = [
        m.kernel_size[0]
        for m in SUBNETS[name](2, 2, hidden=4).modules()
        if isinstance(m, torch.nn.Conv2d)
    ]
    assert sorted(kernels) == sorted(convolutions)
