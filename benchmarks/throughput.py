"""Images per second of training and scoring, beside AE-FLOW as its reproductions write it.

``python -m benchmarks.throughput --output throughput.json`` runs everything in one process, the
variants in turn, and tells medians. The reproduction: a frozen Wide ResNet-50-2 up to stride 16,
FrEIA's `AllInOneBlock` eight times with convolutional sub-networks as wide as half of its
channels, transposed convolutions with BatchNorm. Ours is measured with the same arithmetic (that
decoder's layers exactly, its transposed convolutions as products of matrices, and FrEIA's scale of
the couplings) and as it is by default, each uncompiled and with all behind the encoder compiled;
features are never cached. The
limits are those of this device in this run: of arithmetic a matrix product in bfloat16 (on a CPU
in float32), over the operations that the variant was counted to do.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from FrEIA.framework import SequenceINN
from FrEIA.modules import AllInOneBlock
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from networks import AnomalyScorer, build_aeflow, make_fusion
from networks.aeflow import AEFlow, AEFlowOutput
from networks.detectors.aeflow import AEFlowDetector
from networks.encoder import Encoder
from networks.loss import AEFlowLoss
from pipelines.common import write_json

STRIDE, STEPS = 16, 8
WARM_UP = 3
Work = Callable[[], Any]
Step = Callable[[Any], Any]


def _fused_flop(x: Any, weight: Any, *_: Any, out_shape: Any, **__: Any) -> int:
    return int(conv_flop_count(x, weight, out_shape))


FUSED = {
    torch.ops.aten.cudnn_convolution_relu: _fused_flop,
    torch.ops.aten.cudnn_convolution_add_relu: _fused_flop,
}
"""Convolutions whose operations PyTorch does not count."""


@dataclass
class Variant:
    """One thing that is timed.

    Attributes:
        name: what it is.
        phase: ``training``, ``scoring`` by the bare network, or ``score_image``.
        compiled: whether `torch.compile` made it.
        images_per_second: medians of the rounds, see ``rounds``.
        rounds: images per second of each round.
        gflop: operations per image in 10^9, counted; 0 where they cannot be.
        memory: peak of the device's memory in GiB; 0 on a CPU.
    """

    name: str
    phase: str
    compiled: bool
    images_per_second: float = 0.0
    rounds: tuple[float, ...] = ()
    gflop: float = 0.0
    memory: float = 0.0

    @property
    def told(self) -> str:
        """Its name for people."""
        return f"{self.name}, compiled" if self.compiled else self.name


class TheirDecoder(nn.Sequential):
    """The decoder of the reproductions: `(B, C, h, w)` to an image `(B, out, 16 h, 16 w)`."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        widths = (in_channels, in_channels // 2, in_channels // 4, in_channels // 16)
        super().__init__(
            *(self._double(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True)),
            nn.ConvTranspose2d(widths[-1], out_channels, 2, 2, bias=False),
            nn.Tanh(),
        )

    @staticmethod
    def _double(a: int, b: int) -> nn.Sequential:
        return nn.Sequential(
            nn.ConvTranspose2d(a, a, 2, 2, bias=False), nn.BatchNorm2d(a), nn.ReLU(),
            nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(),
        )  # fmt: skip


class Doubled(nn.ConvTranspose2d):
    """A transposed convolution of 2 x 2 and stride 2 as what it is, one product of matrices."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Map `(B, C, h, w)` to `(B, out, 2 h, 2 w)`, channels-last."""
        count, channels, height, width = x.shape
        matrix = self.weight.permute(0, 2, 3, 1).flatten(1)
        product = x.permute(0, 2, 3, 1).reshape(-1, channels) @ matrix
        quads = product.view(count, height, width, 2, 2, -1).transpose(2, 3)
        return quads.reshape(count, 2 * height, 2 * width, -1).permute(0, 3, 1, 2)


def in_matrices(decoder: TheirDecoder) -> TheirDecoder:
    """The same decoder; its transposed convolutions become `Doubled`."""
    for module in decoder.modules():
        if type(module) is nn.ConvTranspose2d:
            module.__class__ = Doubled
    return decoder


class Reproduction(nn.Module):
    """AE-FLOW as its reproductions write it; the output of `forward` is ours."""

    def __init__(self, encoder: str, in_channels: int, size: int) -> None:
        super().__init__()
        self.encoder = Encoder(encoder, in_channels, (STRIDE,))
        (channels,) = self.encoder.channels
        self.flow = SequenceINN(channels, size // STRIDE, size // STRIDE)
        for _ in range(STEPS):
            self.flow.append(AllInOneBlock, subnet_constructor=self._subnet)
        self.decoder = TheirDecoder(channels, in_channels)

    @staticmethod
    def _subnet(a: int, b: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(a, a, 3, padding=1), nn.ReLU(), nn.Conv2d(a, b, 1))

    def forward(self, image: Tensor) -> AEFlowOutput:
        """The reconstruction, the latent and its log-determinant, spread over the positions."""
        with torch.no_grad():
            features = self.encoder.backbone.stages(image)[-1]
        latent, log_det = self.flow(features)
        spread = log_det[:, None, None] / latent[0, 0].numel()
        log_dets = [spread.expand(-1, *latent.shape[2:])]
        return AEFlowOutput(self.decoder(latent), [latent], log_dets, None, log_det)


def ours(encoder: str, in_channels: int, same: bool) -> AEFlow:
    """Our network of the paper's size, its couplings as wide as the reproductions'.

    Args:
        encoder: name of the encoder.
        in_channels: channels of the image.
        same: whether it has the reproductions' scale and decoder too.
    """
    (channels,) = Encoder(encoder, in_channels, (STRIDE,)).channels
    network = build_aeflow(
        in_channels=in_channels, encoder=encoder, flow_strides=(STRIDE,), flow_steps=STEPS,
        hidden=channels // 2, decoder_width=64, scale="clamped_exp" if same else "softplus",
    )  # fmt: skip
    if same:
        network.decoder = in_matrices(TheirDecoder(channels, in_channels))
    return network


class Bench:
    """Makes and times the variants.

    Args:
        options: of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.device = torch.device(options.device)
        self.gpu = self.device.type == "cuda"
        shape = (options.batch_size, options.channels, options.image_size, options.image_size)
        self.image = torch.rand(shape, device=self.device)
        self.found: list[tuple[Variant, Work]] = []

    def precision(self, reduced: bool) -> Any:
        """Autocast to bfloat16, or nothing."""
        return torch.autocast(self.device.type, torch.bfloat16) if reduced else nullcontext()

    def add(
        self,
        name: str,
        network: nn.Module,
        reduced: bool,
        last: bool = False,
        compiled: bool = False,
    ) -> None:
        """Adds training and scoring of a network; `last` means channels-last."""
        network, image = self._placed(network, last)
        criterion = AEFlowLoss()
        trained = [p for p in network.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(trained, 1e-4, fused=last)
        first: Step = network.encode if isinstance(network, AEFlow) else lambda given: given
        then: Step = network.from_features if isinstance(network, AEFlow) else network
        lost: Step = lambda features: criterion(then(features), image)  # noqa: E731
        if compiled:
            then, lost = torch.compile(then), torch.compile(lost)

        def train() -> None:
            network.train()
            optimizer.zero_grad(set_to_none=True)
            with self.precision(reduced):
                loss = lost(first(image))
            loss.backward()
            optimizer.step()

        def score() -> None:
            network.eval()
            with torch.no_grad(), self.precision(reduced):
                then(first(image))

        for phase, work in (("training", train), ("scoring", score)):
            self.found.append((Variant(name, phase, compiled), work))

    def add_scorer(self, name: str, network: AEFlow, reduced: bool, compiled: bool) -> None:
        """Adds the whole way from an image to its scores and maps, by the paper's score."""
        scorer = AnomalyScorer(AEFlowDetector(network=network), make_fusion("paper")).eval()
        _, image = self._placed(scorer, True)
        scorer.amp = reduced
        if compiled:
            scorer.accelerate()

        def score() -> None:
            with torch.no_grad():
                scorer.score_image(image)

        self.found.append((Variant(name, "score_image", compiled), score))

    def _placed(self, module: nn.Module, last: bool) -> tuple[nn.Module, Tensor]:
        """The module on the device, and images in the memory format that suits it."""
        module.to(self.device)
        if not last:
            return module, self.image
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return module, self.image.contiguous(memory_format=torch.channels_last)

    def measure(self) -> list[Variant]:
        """Times everything in turn."""
        for variant, work in self.found:
            variant.gflop = self._operations(variant, work)
            for _ in range(WARM_UP):
                work()
            if self.gpu:
                torch.cuda.reset_peak_memory_stats()
            work()
            variant.memory = torch.cuda.max_memory_allocated() / 2**30 if self.gpu else 0.0
        for _ in range(self.options.rounds):
            for variant, work in self.found:
                took = self._seconds(work, self.options.iterations)
                variant.rounds += (self.options.batch_size / took,)
        for variant, _ in self.found:
            variant.images_per_second = statistics.median(variant.rounds)
        return [variant for variant, _ in self.found]

    def _operations(self, variant: Variant, work: Work) -> float:
        if variant.compiled:  # the same as without, which was counted before
            alike = (variant.name, variant.phase)
            return next(one.gflop for one, _ in self.found if (one.name, one.phase) == alike)
        with FlopCounterMode(display=False, custom_mapping=FUSED) as counter:
            work()
        return int(counter.get_total_flops()) / int(self.options.batch_size) / 1e9

    def _seconds(self, work: Work, times: int) -> float:
        self._wait()
        began = time.perf_counter()
        for _ in range(times):
            work()
        self._wait()
        return (time.perf_counter() - began) / times

    def _wait(self) -> None:
        if self.gpu:
            torch.cuda.synchronize()

    def limits(self) -> dict[str, float]:
        """TFLOP/s of a matrix product, GB/s of a copy that is read and written."""
        side = 8192 if self.gpu else 1024
        a = torch.randn(side, side, device=self.device, dtype=torch.bfloat16 if self.gpu else None)
        big = torch.empty(2**29 if self.gpu else 2**24, device=self.device)
        other = torch.empty_like(big)
        product = min(self._seconds(lambda: a @ a, 5) for _ in range(5))
        copy = min(self._seconds(lambda: other.copy_(big), 5) for _ in range(5))
        return {
            "tflops": 2 * side**3 / product / 1e12,
            "gigabytes_per_second": 2 * big.nbytes / copy / 1e9,
        }


def table(variants: Sequence[Variant], limits: dict[str, float], base: str) -> list[str]:
    """The lines of a Markdown table; ratios are to the variant `base`, by its bare network."""
    lines = [
        "| phase | variant | images/s (range) | ratio | GFLOP per image | of the limit | GiB |",
        "|---|---|---|---|---|---|---|",
    ]
    rates = {v.phase: v.images_per_second for v in variants if v.name == base}
    rates["score_image"] = rates["scoring"]
    for one in sorted(variants, key=lambda v: v.phase, reverse=True):
        rate = one.images_per_second
        digits = 0 if rate >= 10 else 2
        share = rate * one.gflop / 1e3 / limits["tflops"]
        lines.append(
            f"| {one.phase} | {one.told} | {rate:.{digits}f} ({min(one.rounds):.{digits}f} to "
            f"{max(one.rounds):.{digits}f}) | {rate / rates[one.phase]:.2f} | {one.gflop:.0f} | "
            f"{share:.0%} | {one.memory:.1f} |"
        )
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--encoder", default="wide_resnet50_2")
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--image_size", type=int, default=256)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--iterations", type=int, default=8)
    parser.add_argument("--no_compile", action="store_true", help="where there is no compiler")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = True
    bench = Bench(options)
    kind = (options.encoder, options.channels)
    base = "reproduction, bf16" if bench.gpu else "reproduction, fp32"
    bench.add("reproduction, fp32", Reproduction(*kind, options.image_size), False)
    if bench.gpu:
        bench.add("reproduction, bf16", Reproduction(*kind, options.image_size), True)
    for name, same in (("ours, same arithmetic", True), ("ours", False)):
        for compiled in (False,) if options.no_compile else (False, True):
            bench.add(name, ours(*kind, same), bench.gpu, True, compiled)
            bench.add_scorer(name, ours(*kind, same), bench.gpu, compiled)
    limits, variants = bench.limits(), bench.measure()
    device = torch.cuda.get_device_name() if bench.gpu else platform.processor() or "CPU"
    print(
        f"{device}, torch {torch.__version__}, {options.image_size} pixels, batches of "
        f"{options.batch_size}; {limits['tflops']:.1f} TFLOP/s, "
        f"{limits['gigabytes_per_second']:.0f} GB/s"
    )
    print("\n".join(table(variants, limits, base)))
    if options.output:
        write_json(
            options.output,
            {"device": device, "limits": limits, "variants": [asdict(v) for v in variants]},
        )


if __name__ == "__main__":
    main()
