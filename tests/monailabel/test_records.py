"""The index of the studies, which the server, its watcher and its tasks change at once."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
PYTHON = os.environ.get("AEFLOW_LABEL_PYTHON", "")
COUNT = 150


def test_nothing_is_lost_when_several_write(volumes: list[Path], tmp_path: Path) -> None:
    old, new = ("one", "two", "three"), [f"new{number}" for number in range(8)]
    for name in old:
        shutil.copy(volumes[0], tmp_path / f"{name}.nii.gz")
    script, app = Path(__file__).with_name("write_records.py"), ROOT / "bundles" / "monailabel"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [PYTHON, str(script), str(app), str(tmp_path)]
    writers = [
        subprocess.Popen(
            [*command, name, str(COUNT), *new], env=environment, stderr=subprocess.PIPE, text=True
        )
        for name in old
    ]
    index = tmp_path / "datastore_v2.json"
    end = time.monotonic() + 60
    while "value0" not in (index.read_text() if index.is_file() else ""):
        assert time.monotonic() < end
        time.sleep(0.05)
    for name in new:
        shutil.copy(volumes[0], tmp_path / f"{name}.nii.gz")
        time.sleep(0.05)
    for writer in writers:
        told = writer.communicate(timeout=120)[1]
        assert writer.returncode == 0, told[-2000:]
    objects = json.loads(index.read_text())["objects"]
    assert set(objects) == {*old, *new}
    for name in old:
        info = objects[name]["image"]["info"]
        assert [info.get(f"value{number}") for number in range(COUNT)] == list(range(COUNT)), name
