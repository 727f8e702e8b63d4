import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

PYTHON = os.environ.get("AEFLOW_LABEL_PYTHON", "")


def test_slicer_client_gets_the_label_map_and_the_words(server: Any, tmp_path: Path) -> None:
    server.wait("scoring")
    source = server.studies / "study1.nii.gz"
    script = Path(__file__).with_name("slicer_client.py")
    done = subprocess.run(
        [PYTHON, str(script), server.url, "study1", str(source), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    got = json.loads(done.stdout.splitlines()[-1])
    expected = server.infer("study1").json()
    image = sitk.ReadImage(got["label"])
    reference = sitk.ReadImage(str(source))
    assert image.GetPixelID() == sitk.sitkUInt8
    np.testing.assert_allclose(image.GetOrigin(), reference.GetOrigin(), atol=1e-4)
    np.testing.assert_allclose(image.GetDirection(), reference.GetDirection(), atol=1e-6)
    labels = sitk.GetArrayFromImage(image)
    for value, name in enumerate(("suspicious", "very suspicious"), 1):
        assert (labels == value).sum() == expected["bands"][name]["voxels"]
    assert labels.any()
    np.testing.assert_array_equal(
        sitk.GetArrayFromImage(sitk.ReadImage(got["session_label"])), labels
    )
    assert got["params"]["score"] == pytest.approx(expected["score"])
    assert got["params"]["label_names"] == {"suspicious": 1, "very suspicious": 2}
    assert got["session_params"]["score"] == pytest.approx(expected["score"], abs=1e-5)
    assert Path(got["sample"]["path"]).exists()
    assert got["info"]["models"]["aeflow"]["type"] == "segmentation"
    assert "image" not in got["session"] or str(server.temporary) in got["session"]["image"]
    named = got["uploaded"]["image"]
    assert named == "2: AX FLAIR [b=0] (1)" and got["uploaded_labels"] == ["final"]
    assert got["uploaded_params"]["score"] == pytest.approx(expected["score"], abs=1e-5)
    removed = server.call("DELETE", "/datastore/image", params={"id": named})
    assert removed.status_code == 200
    assert not [one for one in server.studies.rglob("*") if one.name.startswith("2:")]
    assert got["saved"] == {"image": "study1", "label": "study1"}
    assert server.get("/datastore/image/info?image=study1")["normal"] is False
    assert Path(got["downloaded"]).stat().st_size
    assert server.call("DELETE", "/datastore/label?id=study1&tag=final").status_code == 200
    server.wait("scoring")
