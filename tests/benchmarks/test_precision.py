import torch

from benchmarks.precision import compared, mirrored


def test_ties_are_no_other_decisions() -> None:
    reference = torch.tensor([0.0, 1.0, 1.9995, 3.0]).double()
    found = compared(reference, torch.tensor([0.1, 2.5, 2.0005, 3.0]).double(), 2.0)
    assert (found["images"], found["ties"], found["other_decisions"]) == (4, 1, 1)
    assert found["largest_difference"] == 1.5 and found["rank_correlation"] < 1.0
    assert compared(reference, reference, 2.0)["rank_correlation"] == 1.0


def test_mirror_images_stand_behind() -> None:
    whole = mirrored([torch.arange(4.0).view(1, 1, 2, 2)])
    assert whole[:, 0].tolist() == [[[0, 1], [2, 3]], [[1, 0], [3, 2]]]
