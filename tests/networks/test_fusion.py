"""How parts become one score and one map."""

from typing import Any

import pytest
import torch

from networks import Part, make_fusion

PARTS = (Part("a", ("a",), weight=0.25, map_weight=0.5), Part("b", ("b",), weight=0.0))
WEIGHTS = {"a": 1.0, "b": 3.0}
FOUND = {"a": torch.tensor([2.0]), "b": torch.tensor([4.0])}


def test_weights_need_not_sum_to_one_and_those_of_absent_parts_go_to_the_others() -> None:
    fusion = make_fusion("fused", WEIGHTS, {"b": 1.0, "c": 1.0})
    assert fusion.score({}, FOUND).item() == 3.5
    assert fusion.map(FOUND).item() == 4.0
    assert fusion.score({}, {"a": FOUND["a"]}).item() == 2.0


def test_only_the_weights_of_parts_that_are_there_are_kept() -> None:
    fusion = make_fusion("fused", WEIGHTS, WEIGHTS)
    fusion.attach((Part("a"), *PARTS[1:]))
    kept = {"weights": WEIGHTS, "map_weights": {"b": 3.0}}
    assert fusion.config == {"score": "fused", **kept, "margin": 8.0}
    fusion.attach(PARTS)
    assert fusion.config["map_weights"] == WEIGHTS


def test_unless_weights_are_given_the_parts_know_theirs() -> None:
    fusion = make_fusion()
    fusion.attach(PARTS)
    assert fusion.weights == {"a": 0.25, "b": 0.0} and fusion.map_weights == {"a": 0.5, "b": 1.0}
    alone = make_fusion("b")
    alone.attach(PARTS)
    assert alone.weights == {"b": 1.0} and alone.map_weights == fusion.map_weights


def test_no_part_hides_another() -> None:
    fusion = make_fusion("fused", {"a": 1.0, "b": 1.0, "c": 0.0}, WEIGHTS, margin=2.0)
    parts = {name: torch.tensor([value]) for name, value in (("a", -9.0), ("b", 9.0), ("c", 5.0))}
    assert fusion.score({}, parts).item() == 7.0
    assert make_fusion(**fusion.config).score({}, parts).item() == 7.0
    for raised in "abc":  # c has no weight
        odd = {name: torch.tensor([20.0 if name == raised else -20.0]) for name in "abc"}
        assert fusion.score({}, odd).item() == 18.0
    with pytest.raises(ValueError, match="margin: expected a number from 0 on"):
        make_fusion("fused", WEIGHTS, WEIGHTS, margin=-1.0)


def test_a_part_alone() -> None:
    assert make_fusion("a", WEIGHTS, WEIGHTS).score({}, FOUND).item() == 2.0


def test_the_paper_s_score_takes_raw_values() -> None:
    fusion = make_fusion("paper", None, WEIGHTS, beta=0.75)
    values = {"latent": torch.tensor([8.0]), "recon": torch.tensor([-1.0])}
    assert fusion.score(values, FOUND).item() == 5.75
    assert fusion.map(FOUND).item() == 3.5


@pytest.mark.parametrize("score", ["fused", "paper", "a"])
def test_the_config_rebuilds_a_fusion(score: str) -> None:
    fusion = make_fusion(score, WEIGHTS, WEIGHTS, beta=0.3, margin=2.0)
    twin = make_fusion(**fusion.config)
    assert type(twin) is type(fusion) and twin.config == fusion.config


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"score": "best"}, "score: expected one of 'fused', 'paper', 'a', 'b', got 'best'"),
        ({"score": "paper"}, "score: 'paper' combines flow and recon, but .* the parts a, b; take"),
        ({"score": "paper", "beta": 1.5}, "beta: expected a weight in"),
        ({"weights": {"a": -1}}, "weights: expected numbers from 0 on"),
        ({"weights": {"a": float("nan")}}, "weights: expected numbers from 0 on"),
        ({"map_weights": {"a": -1}}, "map_weights: expected numbers from 0 on"),
    ],
)
def test_settings_out_of_range_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_fusion(**({"weights": WEIGHTS, "map_weights": WEIGHTS} | given)).attach(PARTS)


def test_a_fusion_that_weighs_no_part_of_the_detector_is_refused() -> None:
    with pytest.raises(ValueError, match="^weights: expected a weight above 0 for one of c"):
        make_fusion("fused", WEIGHTS, {"c": 1.0}).attach([Part("c", ("c",))])
    with pytest.raises(ValueError, match="^map_weights: .* for one of a, got"):
        make_fusion("fused", WEIGHTS, {"c": 1.0}).attach([Part("a", ("a",))])
