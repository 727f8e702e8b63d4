import pytest
import torch

from pipelines.common.devices import choose_device, pays_bfloat16


@pytest.mark.parametrize(("gpu", "kind"), [(True, "cuda"), (False, "cpu")])
def test_a_gpu_is_taken_if_there_is_one(
    monkeypatch: pytest.MonkeyPatch, gpu: bool, kind: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert choose_device("auto").type == kind
    assert choose_device("cpu").type == "cpu" and choose_device("cuda:1").index == 1


def test_bfloat16_pays_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for found, expected in (({"avx512_bf16": True}, True), ({"avx2": True}, False), ({}, False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=found: found)
        assert pays_bfloat16(torch.device("cpu")) is expected
    assert pays_bfloat16(torch.device("cuda")) and not pays_bfloat16(torch.device("mps"))
