from pathlib import Path

import pytest

from benchmarks.parts import flagged, main, ranked

ROWS = """case,label,score,head_score,flagged,sharpness
a,0,1.0,0.0,0,-4.0
b,0,3.0,0.0,1,-1.0
c,1,2.0,1.0,1,-1.0
d,1,4.0,1.0,1,-4.1
e,,9.0,9.0,1,-4.1
"""


def test_every_score_is_ranked_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "scores.csv"
    path.write_text(ROWS)
    score, head, sharpness = ranked(path)
    assert (score.auroc, score.matched, score.pairs) == (0.75, 0.5, 2)
    assert (head.score, head.auroc, head.matched) == ("head_score", 1.0, 1.0)
    assert sharpness.auroc == pytest.approx(0.375)
    assert flagged(path) == (0.5, 1.0)
    main([str(path)])
    told = capsys.readouterr().out
    assert "flagged 0.500 of normal, 1.000 of anomalous" in told and "0.750  matched 0.500" in told
