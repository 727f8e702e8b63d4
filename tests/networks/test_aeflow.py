import dataclasses
import json

import pytest
import torch
from torch import nn

import networks
from networks.aeflow import AEFlow, AEFlowOutput, build_aeflow
from networks.decoder import Decoder
from networks.encoder import Encoder
from networks.flow import NormalizingFlow
from networks.head import DetectionHead
from networks.loss import AEFlowLoss

SMALL = {"flow_strides": (4, 8), "flow_steps": 2, "hidden": 4, "decoder_width": 2}


class Latent(nn.Module):
    """Returns one tensor, as tracing wants it."""

    def __init__(self, network: AEFlow) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.network(image).latents[-1]


def small(**arguments: object) -> AEFlow:
    return build_aeflow(**{**SMALL, **arguments})


@pytest.fixture
def trained_like(randomise):
    """A small network whose flows and decoder are far from their initial values."""
    network = small()
    randomise(network.flows, 1)
    randomise(network.decoder, 2)
    network.initialize_flows(torch.rand(4, 1, 32, 32))
    return network


def test_shapes_follow_the_image():
    out = small()(torch.rand(2, 1, 32, 48))
    assert out.reconstruction.shape == (2, 1, 32, 48)
    assert [z.shape for z in out.latents] == [(2, 64, 8, 12), (2, 128, 4, 6)]
    assert [d.shape for d in out.log_dets] == [(2, 8, 12), (2, 4, 6)]
    assert out.head is None


def test_defaults_run_with_several_channels_and_a_head():
    network = build_aeflow(in_channels=4, with_head=True, flow_steps=1)
    assert network.encoder.strides == (8, 16, 32)
    out = network(torch.rand(1, 4, 64, 32))
    assert out.reconstruction.shape == (1, 4, 64, 32)
    assert [z.shape[1] for z in out.latents] == [128, 256]
    assert out.head.shape == (1, 1, 8, 4)


def test_decoder_reads_the_latent_of_the_deepest_stride(trained_like):
    out = trained_like(torch.rand(1, 1, 32, 32))
    assert torch.equal(out.reconstruction, trained_like.decoder(out.latents[-1]))


def test_latents_invert_to_the_features(trained_like):
    network, image = trained_like.double(), torch.rand(1, 1, 32, 32, dtype=torch.float64)
    features, out = network.encode(image), network(image)
    for flow, feature, latent in zip(network.flows, features, out.latents, strict=True):
        torch.testing.assert_close(flow.inverse(latent)[0], feature, rtol=1e-8, atol=1e-8)


def test_output_is_the_same_in_train_and_eval_mode(trained_like):
    image = torch.rand(2, 1, 32, 32)
    for train, evaluate in zip(
        trained_like.train()(image)[:3], trained_like.eval()(image)[:3], strict=True
    ):
        torch.testing.assert_close(train, evaluate)
    assert type(trained_like.train()(image)) is type(trained_like.eval()(image)) is AEFlowOutput


def test_forward_is_pure(trained_like):
    before = {k: v.clone() for k, v in trained_like.state_dict().items()}
    attributes = set(vars(trained_like))
    trained_like.train()(torch.rand(2, 1, 32, 32))
    assert set(vars(trained_like)) == attributes
    assert all(torch.equal(before[k], v) for k, v in trained_like.state_dict().items())


def test_batch_equals_one_by_one(trained_like):
    network, images = trained_like.double().train(), torch.rand(3, 1, 32, 32, dtype=torch.float64)
    together = network(images)
    for b in range(3):
        alone = network(images[b : b + 1])
        torch.testing.assert_close(alone.reconstruction[0], together.reconstruction[b])
        for one, many in zip(
            alone.latents + alone.log_dets, together.latents + together.log_dets, strict=True
        ):
            torch.testing.assert_close(one[0], many[b])


def test_from_features_equals_forward(trained_like):
    image = torch.rand(1, 1, 32, 32)
    out = trained_like.from_features(trained_like.encode(image))
    assert torch.equal(out.reconstruction, trained_like(image).reconstruction)


def test_flows_initialise_alike_from_images_and_features():
    first, second, images = small(), small(), torch.rand(4, 1, 32, 32)
    second.load_state_dict(first.state_dict())
    first.initialize_flows(images)
    second.initialize_flows(second.encode(images))
    assert all(torch.equal(v, second.state_dict()[k]) for k, v in first.state_dict().items())
    latent = first(images).latents[0]
    assert latent.std().item() == pytest.approx(1.0, abs=0.1)


def test_a_training_step_leaves_the_frozen_encoder_untouched(trained_like):
    network = trained_like.train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2, weight_decay=0.1)
    image = torch.rand(2, 1, 32, 32)
    AEFlowLoss()(network(image), image).backward()
    optimizer.step()
    changed = {k for k, v in network.state_dict().items() if not torch.equal(before[k], v)}
    assert changed == {
        f"{part}.{k}"
        for part in ("flows", "decoder")
        for k, _ in getattr(network, part).named_parameters()
    }


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_gradients_reach_what_the_loss_weighs(trained_like, alpha):
    image = torch.rand(2, 1, 32, 32)
    AEFlowLoss(alpha)(trained_like(image), image).backward()
    for name, parameter in trained_like.named_parameters():
        if name.startswith("encoder."):
            assert parameter.grad is None
            continue
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        reached = parameter.grad.any().item()
        if alpha == 0.5:
            assert reached, name
        elif alpha == 1.0:
            assert reached == name.startswith("flows."), name
        elif name.startswith("flows.0."):
            assert not reached, name


def test_trainable_parameters_are_those_of_flows_and_decoder():
    network = small(flow_strides=(8,), flow_steps=1, with_head=True)
    trainable = {id(p) for p in network.trainable_parameters()}
    expected = {
        id(p) for n, p in network.named_parameters() if n.startswith(("flows.", "decoder."))
    }
    assert trainable == expected


def test_training_lowers_the_loss(trained_like):
    image = torch.rand(4, 1, 32, 32)
    loss, network = AEFlowLoss(), small()
    network.initialize_flows(image)
    optimizer = torch.optim.Adam(network.trainable_parameters(), lr=2e-3)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        terms = loss.terms(network(image), image)
        terms.total.backward()
        optimizer.step()
        losses.append(terms)
    assert losses[-1].flow < losses[0].flow
    assert losses[-1].reconstruction < losses[0].reconstruction


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"with_head": True, "freeze_encoder": False},
        {"in_channels": 3, "subnet": "resnet", "scale": "clamped_exp", "clamp": 1.5},
    ],
)
def test_architecture_rebuilds_the_network(arguments):
    network = small(**arguments)
    architecture = json.loads(json.dumps(dataclasses.asdict(network.config)))
    twin = build_aeflow(**architecture)
    twin.load_state_dict(network.state_dict())
    image = torch.rand(1, arguments.get("in_channels", 1), 32, 32)
    network.eval(), twin.eval()
    assert torch.equal(network(image).reconstruction, twin(image).reconstruction)
    assert torch.equal(network(image).latents[0], twin(image).latents[0])
    assert twin.encoder.frozen == network.encoder.frozen


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_the_network_can_be_traced(trained_like):
    network, image, other = trained_like.eval(), torch.rand(2, 1, 32, 32), torch.rand(3, 1, 32, 32)
    with torch.no_grad():
        traced = torch.jit.trace(Latent(network), image)
        # Traced, BatchNorm is not folded into the convolutions: that rounds otherwise.
        torch.testing.assert_close(traced(other), network(other).latents[-1], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 32, 32), r"image: expected shape \(B, 1, H, W\), got \(1, 3, 32, 32\)"),
        ((1, 32, 32), "image: expected shape"),
        ((1, 1, 32, 36), "image: expected height and width divisible by 8, got 32 x 36"),
        ((1, 1, 0, 32), "image: expected height and width"),
    ],
)
def test_unfit_images_are_refused(shape, message):
    network = small()
    for call in (network, network.encode, network.initialize_flows):
        with pytest.raises(ValueError, match=message):
            call(torch.rand(shape))


@pytest.mark.parametrize(
    ("strides", "size", "last"),
    [((8, 16, 32), (6, 4), 32), ((8, 16), (6, 4), 16), ([16], (3, 2), 16)],
)
def test_with_a_head_images_need_only_be_divisible_by_16(strides, size, last):
    network = small(with_head=True, head_strides=strides)
    output = network(torch.randn(2, 1, 48, 32))
    assert output.head is not None
    assert output.head.shape == (2, 1, *size)
    assert network.encoder.strides[-1] == last
    assert output.reconstruction.shape == (2, 1, 48, 32)


def test_features_must_be_those_of_the_encoder():
    network = small()
    with pytest.raises(ValueError, match="features: expected 2 tensors"):
        network.from_features([torch.rand(1, 64, 8, 8)])


def test_parts_that_do_not_agree_are_refused():
    encoder = Encoder("resnet18", strides=(4,))
    flow, decoder = NormalizingFlow(64, 1, hidden=2), Decoder(64, 1, stride=4, width=2)
    with pytest.raises(ValueError, match="flows: expected 1"):
        AEFlow(encoder, [flow, flow], decoder, (4,))
    with pytest.raises(ValueError, match=r"flow_strides: .*\(8,\)"):
        AEFlow(encoder, [flow], decoder, (8,))
    absent = r"head_strides: expected strides among the encoder's \(4,\)"
    with pytest.raises(ValueError, match=absent):
        AEFlow(encoder, [flow], decoder, (4,), head=DetectionHead([64], width=8))
    assert AEFlow(encoder, [flow], decoder, (4,)).config is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"encoder": "wide_resnet50"}, "encoder: .*Did you mean 'wide_resnet50_2'"),
        ({"subnet": "zzz"}, "subnet: .*Choose one of these"),
        ({"flow_strides": (16, 8)}, "flow_strides: expected ascending"),
    ],
)
def test_wrong_choices_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        small(**arguments)


def test_public_names_are_exported():
    assert all(hasattr(networks, name) for name in networks.__all__)
    assert sorted(set(networks.__all__)) == sorted(networks.__all__)
