"""Drives the client module of MONAI Label's Slicer extension as the extension does.

Run by the label environment's python as ``python slicer_client.py <url> <study> <file> <folder>``;
prints what it got as JSON.
"""

import json
import os
import sys
from pathlib import Path

os.environ.pop("http_proxy", None)
url, study, upload, folder = sys.argv[1:]
sys.path.insert(0, str(Path(sys.prefix) / "monailabel" / "plugins" / "slicer" / "MONAILabel"))

from MONAILabelLib import MONAILabelClient  # noqa: E402

client = MONAILabelClient(url, folder, "user-xyz")
info = client.info()
sample = client.next_sample("random", {})
forced = {"result_extension": ".nrrd", "result_dtype": "uint8"}
label, params = client.infer("aeflow", study, dict(forced))
label = str(Path(label).rename(Path(folder) / "by_id.nrrd"))
session = client.create_session(upload)["session_id"]
known = client.get_session(session)
again, session_params = client.infer("aeflow", study, dict(forced), session_id=session)
client.remove_session(session)
named = "2: AX FLAIR [b=0] (1)"  # as Slicer names what it loads from DICOM
uploaded = client.upload_image(upload, named)
uploaded_params = client.infer("aeflow", named, dict(forced))[1]
client.save_label(named, again, params={"label_info": [{"name": "suspicious"}]})
listed = client.datastore()["objects"][named]
saved = client.save_label(study, again, params={"label_info": [{"name": "suspicious"}]})
print(
    json.dumps(
        {
            "info": info,
            "sample": sample,
            "label": label,
            "params": params,
            "session": known,
            "session_label": again,
            "session_params": session_params,
            "saved": saved,
            "uploaded": uploaded,
            "uploaded_params": uploaded_params,
            "uploaded_labels": list(listed["labels"]),
            "training": client.train_status(check_if_running=True),
            "downloaded": client.download_label(study, "final"),
        }
    )
)
