import pytest
import torch

from pipelines.common.devices import choose_device, compiling_pays


@pytest.mark.parametrize(("gpu", "kind"), [(True, "cuda"), (False, "cpu")])
def test_a_gpu_is_taken_if_there_is_one(
    monkeypatch: pytest.MonkeyPatch, gpu: bool, kind: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert choose_device("auto").type == kind
    assert choose_device("cpu").type == "cpu" and choose_device("cuda:1").index == 1


def test_only_long_runs_on_a_gpu_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr("shutil.which", lambda name: name)
    assert compiling_pays("auto", gpu, 100, 100)
    assert not compiling_pays("auto", gpu, 99, 100) and not compiling_pays("auto", cpu, 100, 100)
    assert compiling_pays("always", cpu, 0, 100) and not compiling_pays("never", gpu, 100, 100)
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert not compiling_pays("auto", gpu, 100, 100)
