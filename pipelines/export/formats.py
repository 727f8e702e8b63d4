"""Writes a trained model for other programs: ONNX, torch.export or TorchScript.

    python -m pipelines.export.formats --ckpt_dir bundles/aeflow/models --format onnx

The file takes a float32 image (B, C, H, W) in [0, 1], any B and the model's H and W, and returns
`networks.exported.OUTPUTS`: the anomaly map (B, 1, H, W), score, percentile and flagged (B,), with
threshold and preprocessing as metadata. Of signals it takes windows (B, C, L), of volumes in three
dimensions patches (B, C, D, H, W). A file that does not score like the model is not kept.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from monai.data.torchscript_utils import load_net_with_metadata, save_net_with_metadata
from torch import Tensor
from torch.export.passes import move_to_device_pass

from networks.choices import nearest
from networks.errors import ArgumentError
from networks.exported import OUTPUTS, ExportedScorer
from networks.scorer import AnomalyScorer
from networks.spatial import SHAPES
from pipelines.common import replacing
from pipelines.data import seen_size
from pipelines.export.parity import (
    Outputs,
    Parity,
    compare,
    differing,
    probe_context,
    probe_images,
)
from pipelines.scoring import load_scorer, read_model
from transforms.errors import InputError

METADATA_KEY = "aeflow"
"""Name of the JSON metadata in ONNX and torch.export files."""

ONNX_OPSET = 20
EXPORT_PACKAGES = ("onnx", "onnxscript", "onnxruntime")

Metadata = dict[str, Any]
Runner = Callable[..., Outputs]


class ExportFormat(NamedTuple):
    """How a format is written and read.

    Attributes:
        suffix: of the file.
        write: from (scorer, file, metadata).
        load: from (file, device), what scores a batch, and the metadata.
    """

    suffix: str
    write: Callable[[ExportedScorer, Path, Metadata], None]
    load: Callable[[Path, str], tuple[Runner, Metadata]]


class Exported(NamedTuple):
    """A finished export: its file and how far its outputs lie from the model's."""

    path: Path
    parity: Parity

    def summary(self) -> str:
        """One line for the user."""
        size = self.path.stat().st_size / 1e6
        return f"{self.path} ({size:.1f} MB), loaded again and checked: {self.parity.summary()}"


class ParityError(RuntimeError):
    """An export that does not score like the model that it was made from."""


def export_model(
    ckpt_dir: str | Path, format_name: str, output: Path | None = None, device: str = "cpu"
) -> Exported:
    """Exports a model, loads the file again and compares it with the model.

    Args:
        ckpt_dir: the model file or the folder that holds it.
        format_name: one of `FORMATS`.
        output: the file to write; ``model.<suffix>`` beside the model file by default.
        device: where a torch.export or TorchScript file is to run; ONNX files run anywhere.

    Raises:
        InputError: for an unknown format, a missing model, a missing package or another suffix.
        ParityError: when the file disagrees with the model; it is not kept.
    """
    chosen, content = _choose_format(format_name), read_model(ckpt_dir)
    output = _output_file(Path(ckpt_dir), chosen, output)
    device = "cpu" if format_name == "onnx" else device
    scorer = load_scorer(content, _available(device))
    image_size = seen_size(content)
    scorer.amp = False  # a file computes in 32 bits, and is compared so
    exported = ExportedScorer(scorer, image_size)
    exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)  # TF32 rounds to 10 bits
    with replacing(output) as temporary, exact:  # a trace keeps the flag
        chosen.write(exported, temporary, describe(content, scorer))
        run, _ = chosen.load(temporary, device)
        parity = check_parity(scorer, run, image_size)
        if not parity.agrees:
            raise ParityError(
                f"{output}: the exported file does not score like the model and was not kept "
                f"({parity.summary()}). Please report it with the model's detector "
                f"{content['detector']} {content['config']}."
            )
    return Exported(output, parity)


def check_parity(scorer: AnomalyScorer, run: Runner, image_size: Sequence[int]) -> Parity:
    """Compares an export with its scorer on random and extreme images, in several batch sizes.

    Args:
        scorer: the scorer that was exported.
        run: scores a batch by the exported file.
        image_size: (H, W), (L,) of signals, or (D, H, W) of patches.
    """
    detector, device = scorer.detector, scorer.calibration.threshold.device
    found = []
    for image in probe_images(detector.in_channels, image_size):
        context = probe_context(detector.needs, image)
        outputs = run(image.to(device), *(value.to(device) for value in context.values()))
        found.append(compare(scorer, image, outputs, context))
    return differing(found)


def describe(content: Mapping[str, Any], scorer: AnomalyScorer) -> Metadata:
    """Plain facts that travel with an export; no names of cases.

    Args:
        content: what `read_model` returned.
        scorer: the scorer of that model.
    """
    size = SHAPES[scorer.detector.spatial_dims]
    return {
        "threshold": float(scorer.calibration.threshold),
        "pixel_threshold": float(scorer.calibration.pixel_threshold),
        "target_fpr": float(scorer.calibration.target_fpr),
        "n_normal": int(scorer.calibration.n_normal),
        "outputs": list(OUTPUTS),
        "units": "standard deviations above held-out normal images; percentile in [0, 100]",
        "input": f"float32 (B, C, {size}) in [0, 1], after the model's preprocessing",
        "inputs": ["image", *scorer.detector.needs],
        **{key: content[key] for key in ("modalities", "preprocessing", "versions", "created")},
    }


def example_for(scorer: ExportedScorer) -> tuple[Tensor, ...]:
    """What `ExportedScorer.forward` takes, for two images."""
    device = scorer.calibration.threshold.device
    image = torch.rand(2, scorer.detector.in_channels, *scorer.image_size, device=device)
    return (image, *probe_context(scorer.detector.needs, image).values())


def traced(scorer: ExportedScorer, example: tuple[Tensor, ...]) -> torch.jit.ScriptModule:
    """A scorer as TorchScript."""
    with warnings.catch_warnings(), torch.no_grad():
        # Sizes become constants by intention: the module checks them.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        found: torch.jit.ScriptModule = torch.jit.trace(scorer, example)
    return found


def _write_torchscript(scorer: ExportedScorer, path: Path, metadata: Metadata) -> None:
    save_net_with_metadata(
        traced(scorer, example_for(scorer)),
        str(path),
        include_config_vals=False,
        meta_values=metadata,
    )


def load_torchscript(path: Path, device: str = "cpu") -> tuple[Runner, Metadata]:
    """Loads an exported TorchScript file: what scores a batch, and the metadata."""
    module, metadata, _ = load_net_with_metadata(str(path), map_location=torch.device(device))
    return torch.no_grad()(module.eval().__call__), dict(metadata)


def _batches(scorer: ExportedScorer) -> dict[str, Any]:
    batch = {0: torch.export.Dim("batch", min=1)}
    further = tuple(batch for _ in scorer.detector.needs)
    return {"dynamic_shapes": (batch, further) if further else (batch,)}


def _write_torch_export(scorer: ExportedScorer, path: Path, metadata: Metadata) -> None:
    # Exported on the CPU and then moved: on a GPU the export would fix the batch size.
    device = scorer.calibration.threshold.device
    on_cpu = copy.deepcopy(scorer).cpu()
    program = torch.export.export(on_cpu, example_for(on_cpu), **_batches(on_cpu))
    if device.type != "cpu":
        program = move_to_device_pass(program, device)
    torch.export.save(program, path, extra_files={METADATA_KEY: json.dumps(metadata)})


def load_torch_export(path: Path, device: str = "cpu") -> tuple[Runner, Metadata]:
    """Loads a torch.export file: what scores a batch, and the metadata."""
    extra = {METADATA_KEY: ""}
    module = torch.export.load(path, extra_files=extra).module()
    return torch.no_grad()(module.__call__), json.loads(extra[METADATA_KEY])


def _write_onnx(scorer: ExportedScorer, path: Path, metadata: Metadata) -> None:
    import onnx

    with _quiet("torch.onnx"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            scorer,
            example_for(scorer),
            path,
            input_names=list(scorer.inputs),
            output_names=list(OUTPUTS),
            opset_version=ONNX_OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
            **_batches(scorer),
        )
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps(metadata)})
    onnx.checker.check_model(model)
    onnx.save(model, path)


def load_onnx(path: Path, device: str = "cpu", threads: int = 0) -> tuple[Runner, Metadata]:
    """Loads an ONNX file into onnxruntime, on the CPU.

    Args:
        path: the file.
        device: ignored; the file runs on any device, this function on the CPU.
        threads: number of threads; 0 leaves it to onnxruntime.

    Returns:
        What scores a batch, and the metadata.
    """
    _need_export_packages()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    names = [one.name for one in session.get_inputs()]

    def run(*inputs: Tensor) -> Outputs:
        given = {name: one.cpu().numpy() for name, one in zip(names, inputs, strict=True)}
        found = session.run(list(OUTPUTS), given)
        return tuple(torch.from_numpy(value) for value in found)

    return run, json.loads(session.get_modelmeta().custom_metadata_map[METADATA_KEY])


FORMATS: Mapping[str, ExportFormat] = {
    "onnx": ExportFormat(".onnx", _write_onnx, load_onnx),
    "torch_export": ExportFormat(".pt2", _write_torch_export, load_torch_export),
    "torchscript": ExportFormat(".ts", _write_torchscript, load_torchscript),
}
"""The formats to choose from."""


def _choose_format(name: str) -> ExportFormat:
    if name not in FORMATS:
        known = ", ".join(FORMATS)
        raise InputError(
            f"--format: expected one of {known}, found {name!r}. {nearest(name, FORMATS)}"
        )
    if name == "onnx":
        _need_export_packages()
    return FORMATS[name]


def _need_export_packages() -> None:
    missing = [name for name in EXPORT_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"--format: onnx needs the package(s) {', '.join(missing)}, which are not installed. "
            "Install them with pip install -c constraints.txt -e '.[export]', or choose "
            "--format torch_export or torchscript, which need none."
        )


def _output_file(ckpt_dir: Path, chosen: ExportFormat, output: Path | None) -> Path:
    if output is None:
        folder = ckpt_dir if ckpt_dir.is_dir() else ckpt_dir.parent
        return folder / f"model{chosen.suffix}"
    if output.suffix != chosen.suffix or output.is_dir():
        raise InputError(
            f"--output: expected the name of a file that ends in {chosen.suffix} for this format, "
            f"found {output}. Give for example --output {output.with_suffix(chosen.suffix)}."
        )
    return output


def _available(device: str) -> str:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"--device: {device!r} is not available here ({str(error).splitlines()[0]}). "
            "Use --device cpu, or cuda on a machine with a GPU."
        ) from error
    return device


@contextmanager
def _quiet(logger_name: str) -> Iterator[None]:
    """Holds back a library's remarks on packages that this project does not use."""
    logger = logging.getLogger(logger_name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.export.formats", description=str(__doc__).split("\n")[0]
    )
    parser.add_argument("--ckpt_dir", type=Path, required=True, help="folder of model.pt")
    parser.add_argument("--format", default="onnx", help=f"one of {', '.join(FORMATS)}")
    parser.add_argument("--output", type=Path, help="the file; default: beside model.pt")
    parser.add_argument("--device", default="cpu", help="where torch files are to run: cpu, cuda")
    options = parser.parse_args(arguments)
    try:
        done = export_model(options.ckpt_dir, options.format, options.output, options.device)
    except (InputError, ArgumentError, ParityError) as error:
        parser.exit(1, f"Error: {error}\n")
    print(done.summary())


if __name__ == "__main__":
    main()
