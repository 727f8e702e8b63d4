from pathlib import Path
from typing import Any


def scores(server: Any) -> dict[str, Any]:
    objects = server.get("/datastore/?output=all")["objects"]
    return {name: one["image"]["info"].get("aeflow", {}) for name, one in objects.items()}


def test_every_study_gets_a_score(server: Any) -> None:
    server.wait("scoring")
    server.call("POST", "/scoring/anomaly_score", json={})
    assert server.wait("scoring")["status"] == "DONE"
    found = scores(server)
    for name in ("study0", "study1", "study2", "series.one"):
        words = server.infer(name).json()
        assert abs(found[name]["score"] - words["score"]) < 1e-4
        assert found[name]["threshold"] == words["threshold"]
        assert found[name]["model"] == words["model"]


def test_strategies_offer_by_score(server: Any) -> None:
    server.wait("scoring")
    found = scores(server)
    value = {name: one["score"] for name, one in found.items() if "score" in one}
    expected = sorted(value, key=lambda name: -value[name])
    offered = [server.call("POST", "/activelearning/most_anomalous", json={}).json()["id"]]
    offered.append(server.call("POST", "/activelearning/most_anomalous", json={}).json()["id"])
    assert offered == expected[:2]
    uncertain = server.call("POST", "/activelearning/most_uncertain", json={}).json()
    distance = {n: abs(v - found[n]["threshold"]) for n, v in value.items()}
    assert uncertain["id"] == min(distance, key=lambda name: distance[name])
    path = Path(uncertain["path"])
    places = (server.studies, server.temporary)  # a DICOM folder is offered as a NIfTI copy
    assert path.is_file() and any(path.is_relative_to(one) for one in places)
    assert uncertain["aeflow"]["score"] == value[uncertain["id"]]
    assert server.call("POST", "/activelearning/random", json={}).json()["id"] in found
    server.wait("scoring")
