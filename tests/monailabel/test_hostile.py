"""Requests that a server must refuse, one row each: what is sent, and which answers are right."""

import concurrent.futures
import io
import json
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import SimpleITK as sitk

Send = Callable[[Any], requests.Response]
LABEL = "study0"


def post(path: str, **kwargs: Any) -> Send:
    return lambda server: server.call("POST", path, **kwargs)


def put(path: str, **kwargs: Any) -> Send:
    return lambda server: server.call("PUT", path, **kwargs)


def get(path: str, **kwargs: Any) -> Send:
    return lambda server: server.call("GET", path, **kwargs)


def delete(path: str, **kwargs: Any) -> Send:
    return lambda server: server.call("DELETE", path, **kwargs)


def infer(study: str = LABEL, **params: Any) -> Send:
    return lambda server: server.infer(study, params=params)


def nifti(server: Any) -> bytes:
    content: bytes = (server.studies / f"{LABEL}.nii.gz").read_bytes()
    return content


def upload_image(image: str, name: str = "x.nii.gz") -> Send:
    def send(server: Any) -> requests.Response:
        files = {"file": (name, nifti(server))}
        sent: requests.Response = server.call(
            "PUT", "/datastore/image", params={"image": image}, files=files
        )
        return sent

    return send


def upload_label(image: str, tag: str, name: str = "x.nii.gz") -> Send:
    def send(server: Any) -> requests.Response:
        files = {"label": (name, nifti(server))}
        query = {"image": image, "tag": tag}
        sent: requests.Response = server.call("PUT", "/datastore/label", params=query, files=files)
        return sent

    return send


def zipped(name: str, link: bool = False) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        info = zipfile.ZipInfo(name)
        if link:
            info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd" if link else "x")
    return stream.getvalue()


def tarred(name: str, kind: bytes = tarfile.REGTYPE) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, "/etc/passwd"
        info.size = 1 if kind == tarfile.REGTYPE else 0
        archive.addfile(info, io.BytesIO(b"x"))
    return stream.getvalue()


def archive(content: bytes, name: str) -> Send:
    return put("/session/?uncompress=true", files={"files": (name, content)})


def detached_nrrd() -> bytes:
    return (
        b"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 8 8 8\nencoding: raw\n"
        b"data file: /etc/passwd\n\n"
    )


def huge_nrrd() -> bytes:
    return (
        b"NRRD0004\ntype: float\ndimension: 3\nsizes: 99999 99999 99999\nencoding: raw\n"
        b"endian: little\n\n"
    )


def direct(name: str, content: bytes) -> Send:
    return post("/infer/aeflow?output=json", files={"file": (name, content)})


BIG = {"client_id": "x" * 100_000}
TABLE: dict[str, tuple[Send, set[int]]] = {
    "image leads out": (infer("../x"), {404}),
    "image is an absolute path": (infer("/etc/passwd"), {404}),
    "image is a server file": (infer(str(Path(__file__).resolve())), {404}),
    "image is the index": (infer("datastore_v2.json"), {404}),
    "image is unknown": (infer("nobody"), {404}),
    "image is empty": (infer(""), {400}),
    "image with NUL": (infer("a\0b"), {404}),
    "params.image absolute": (infer(image="/etc/passwd"), {400}),
    "params.image of a study": (infer(image=LABEL), {400}),
    "params.model": (infer(model="x"), {400}),
    "params.session": (infer(session={"image": "/etc/passwd"}), {400}),
    "params no JSON": (post(f"/infer/aeflow?image={LABEL}", data={"params": "{"}), {400}),
    "params a list": (post(f"/infer/aeflow?image={LABEL}", data={"params": "[1]"}), {400}),
    "params nested": (
        post(f"/infer/aeflow?image={LABEL}", data={"params": "[" * 100_000}),
        {400},
    ),
    "extension leads out": (infer(result_extension="/../../x.nii.gz"), {400}),
    "dtype unknown": (infer(result_dtype="object"), {400}),
    "result unknown": (infer(result="weights"), {400}),
    "label_tag leads out": (infer(save_label=True, label_tag="../../x"), {400}),
    "model unknown": (post(f"/infer/other?image={LABEL}"), {404}),
    "model leads out": (post(f"/infer/..%2f..%2fx?image={LABEL}"), {400, 404}),
    "pathology inference": (post("/infer/wsi/aeflow", json={"image": "/etc/passwd"}), {404}),
    "session unknown": (
        post("/infer/aeflow?session_id=00000000-0000-0000-0000-000000000000"),
        {404},
    ),
    "session leads out": (post("/infer/aeflow?session_id=../../etc"), {400}),
    "session absolute": (post("/infer/aeflow?session_id=/etc"), {400}),
    "session removal leads out": (delete("/session/..%2f..%2fx"), {400}),
    "session reads dots": (get("/session/%2e%2e"), {400, 404}),
    "seg of no DICOM": (post(f"/infer/aeflow?image={LABEL}&output=dicom_seg"), {400}),
    "output unknown": (post(f"/infer/aeflow?image={LABEL}&output=exe"), {422}),
    "new study leads out": (upload_image("../x"), {400}),
    "new study absolute": (upload_image("/tmp/x"), {400}),
    "new study hidden": (upload_image(".x"), {400}),
    "new study of another kind": (upload_image("y", "x.sh"), {400}),
    "new study named by a path": (upload_image("", "../../x.sh"), {400}),
    "label of unknown study": (upload_label("nobody", "final"), {404}),
    "label of a path": (upload_label("../x", "final"), {404}),
    "tag leads out": (upload_label(LABEL, "../../x"), {400}),
    "tag absolute": (upload_label(LABEL, "/tmp/x"), {400}),
    "tag is dots": (upload_label(LABEL, ".."), {400}),
    "label of another kind": (upload_label(LABEL, "final", "x.py"), {400}),
    "label download leads out": (get(f"/datastore/label?label={LABEL}&tag=../.."), {400}),
    "label download of a path": (get("/datastore/label?label=../x&tag=final"), {404}),
    "label removal leads out": (delete(f"/datastore/label?id={LABEL}&tag=../../x"), {400}),
    "image download of a path": (get("/datastore/image?image=../../etc/passwd"), {404}),
    "image removal of a path": (delete("/datastore/image?id=../x"), {404}),
    "link out of the studies": (infer("linked"), {400}),
    "download of a link": (get("/datastore/image?image=linked"), {400}),
    "info no JSON": (put(f"/datastore/image/info?image={LABEL}", data={"info": "{"}), {400}),
    "info forges a score": (
        put(f"/datastore/image/info?image={LABEL}", data={"info": '{"aeflow": {"score": 9}}'}),
        {400},
    ),
    "info normal is text": (
        put(f"/datastore/image/info?image={LABEL}", data={"info": '{"normal": "yes"}'}),
        {400},
    ),
    "dataset archive": (get("/datastore/dataset"), {403, 404}),
    "zip leads out": (archive(zipped("../../../x"), "a.zip"), {400}),
    "zip absolute": (archive(zipped("/tmp/x"), "a.zip"), {400}),
    "zip with a link": (archive(zipped("x.nii.gz", link=True), "a.zip"), {400}),
    "zip empty": (archive(zipped("folder/"), "a.zip"), {400}),
    "tar leads out": (archive(tarred("../../../x"), "a.tar"), {400}),
    "tar absolute": (archive(tarred("/tmp/x"), "a.tar"), {400}),
    "tar with a link": (archive(tarred("x", tarfile.SYMTYPE), "a.tar"), {400}),
    "tar with a hard link": (archive(tarred("x", tarfile.LNKTYPE), "a.tar"), {400}),
    "tar with a device": (archive(tarred("x", tarfile.CHRTYPE), "a.tar"), {400}),
    "archive damaged": (archive(b"PK\3\4 nothing", "a.zip"), {400}),
    "file named dots": (put("/session/", files={"files": ("..", b"x")}), {400}),
    "NRRD names another file": (direct("x.nrrd", detached_nrrd()), {400}),
    "NRRD too large": (direct("x.nrrd", huge_nrrd()), {400}),
    "strategy unknown": (post("/activelearning/best", json={}), {404}),
    "strategy in the body": (post("/activelearning/random", json={"strategy": "x"}), {404}),
    "scoring unknown": (post("/scoring/dice", json={}), {404}),
    "scoring adds to PYTHONPATH": (
        post("/scoring/anomaly_score", json={"bundle_path": "/tmp"}),
        {400},
    ),
    "scoring in the server": (post("/scoring/anomaly_score?run_sync=true", json={}), {400}),
    "training unknown": (post("/train/other", json={}), {404}),
    "training runs a config": (post("/train/aeflow", json={"config_file": "/tmp/x"}), {400}),
    "training out of range": (post("/train/aeflow", json={"max_epochs": 10**9}), {400}),
    "training without normals": (post("/train/aeflow", json={}), {409}),
    "batch of a path": (post("/batch/infer/aeflow", json={"images": ["../x"]}), {404}),
    "batch tag leads out": (post("/batch/infer/aeflow", json={"label_tag": "../x"}), {400}),
    "batch with a log level": (post("/batch/infer/aeflow", json={"logging": "DEBUG"}), {400}),
    "body too long": (post("/activelearning/random", json=BIG), {413}),
    "body a list": (post("/activelearning/random", json=[1]), {400}),
    "model replaced": (put("/model/aeflow", files={"file": ("m.pt", b"x")}), {404}),
    "model removed": (delete("/model/aeflow"), {404}),
    "model downloaded": (get("/model/aeflow"), {404}),
    "reload": (post("/reload"), {404}),
    "GPU listing": (get("/logs/gpu"), {404}),
    "proxy without a store": (get("/proxy/dicom/qido/studies"), {404}),
    "static leads out": (get("/static/..%2f..%2f..%2fetc/passwd"), {400, 404}),
    "viewer leads out": (get("/ohif/..%2f..%2fetc/passwd"), {400, 404}),
    "page of another site": (get("/info/", headers={"Origin": "https://evil.example"}), {403}),
    "page without an origin": (get("/info/", headers={"Origin": "null"}), {403}),
    "host of another site": (get("/info/", headers={"Host": "evil.example"}), {403}),
}


def listing(folder: Path) -> set[str]:
    return {str(one.relative_to(folder)) for one in folder.rglob("*")}


@pytest.fixture(scope="module")
def outside(server: Any) -> Iterator[Path]:
    """The folder around the studies, with a link into it that leads out of them."""
    around: Path = server.studies.parent
    secret = around / "secret.nii.gz"
    secret.write_bytes(nifti(server))
    link = server.studies / "linked.nii.gz"
    os.symlink(secret, link)
    server.call(
        "PUT", "/datastore/image?image=trigger", files={"file": ("x.nii.gz", nifti(server))}
    )
    server.call("DELETE", "/datastore/image?id=trigger")
    yield around
    link.unlink()
    secret.unlink()


@pytest.mark.parametrize("name", TABLE)
def test_is_refused_and_leaves_no_trace(name: str, server: Any, outside: Path) -> None:
    send, right = TABLE[name]
    server.wait("scoring")
    before, temporary = listing(outside), listing(server.temporary)
    response = send(server)
    assert response.status_code in right, (response.status_code, response.text[:300])
    if "json" in response.headers.get("content-type", ""):
        assert response.json()["detail"]
        assert str(outside) not in response.text
    assert listing(outside) == before
    assert listing(server.temporary) == temporary
    assert server.call("GET", "/info/").status_code == 200


def test_fifty_at_once_leave_the_server_answering(server: Any) -> None:
    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        asked = [
            pool.submit(
                requests.post,
                f"{server.url}/infer/aeflow",
                params={"image": LABEL, "output": "json"},
                timeout=300,
            )
            for _ in range(50)
        ]
        answered = 0
        while not all(one.done() for one in asked):
            assert requests.get(f"{server.url}/info/", timeout=30).status_code == 200
            answered += 1
            concurrent.futures.wait(asked, timeout=0.3)
        responses = [one.result() for one in asked]
    codes = [one.status_code for one in responses]
    assert set(codes) <= {200, 503} and codes.count(200) >= 33
    scores = {json.dumps(one.json()["score"]) for one in responses if one.status_code == 200}
    assert len(scores) == 1
    assert answered >= 2
    assert server.infer(LABEL).status_code == 200
    assert not [one for one in listing(server.temporary) if "aeflow." in one]


def test_maps_of_wrong_files_are_not_guessed(server: Any, tmp_path: Path) -> None:
    flat = sitk.GetImageFromArray(np.zeros((4, 4, 4), np.float32))
    sitk.WriteImage(flat, str(tmp_path / "flat.nrrd"))
    response = direct("flat.nrrd", (tmp_path / "flat.nrrd").read_bytes())(server)
    assert response.status_code == 400 and "everywhere" in response.json()["detail"]
