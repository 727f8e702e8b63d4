"""Requests that a server must refuse, one row each: what is sent, and which answers are right."""

import concurrent.futures
import hashlib
import io
import json
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import SimpleITK as sitk
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import RLELossless

HEADING = """# Hostile requests

What `tests/monailabel/test_hostile.py` sends to a real server, and what it gets. After each the
test looks that no file came or went, in the folder around the studies or in the temporary one, and
that the server still answers. Fifty inferences at once are answered or told to come back (503)
while `/info/` goes on answering.

| request | answer | reason |
|---|---|---|"""
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


def bomb(kind: str) -> bytes:
    """A file of a few kilobytes that says it is an image of gigabytes."""
    stream = io.BytesIO()
    if kind == "png":
        header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
        chunk = struct.pack(">I", 13) + b"IHDR" + header
        content = zlib.compress(bytes(100))
        data = struct.pack(">I", len(content)) + b"IDAT" + content
        check = struct.pack(">I", zlib.crc32(b"IHDR" + header))
        return b"\x89PNG\r\n\x1a\n" + chunk + check + data
    one = Dataset()
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = RLELossless
    one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID = "1.2.3"
    one.Rows, one.Columns, one.NumberOfFrames = 65_535, 65_535, 100
    one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
    one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 8, 8, 7, 0
    one.PixelData = encapsulate([bytes(64)])
    one["PixelData"].is_undefined_length = True
    one.is_little_endian, one.is_implicit_VR = True, False
    dcmwrite(stream, one, write_like_original=False)
    return stream.getvalue()


BIG = {"client_id": "x" * 100_000}
TABLE: dict[str, tuple[Send, set[int]]] = {
    "image leads out": (infer("../x"), {404}),
    "image is an absolute path": (infer("/etc/passwd"), {404}),
    "image is a server file": (infer("/etc/hosts"), {404}),
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
    "new study absolute": (upload_image("/var/x"), {400}),
    "new study hidden": (upload_image(".x"), {400}),
    "new study of another kind": (upload_image("y", "x.sh"), {400}),
    "new study named by a path": (upload_image("", "../../x.sh"), {400}),
    "label of unknown study": (upload_label("nobody", "final"), {404}),
    "label of a path": (upload_label("../x", "final"), {404}),
    "tag leads out": (upload_label(LABEL, "../../x"), {400}),
    "tag absolute": (upload_label(LABEL, "/var/x"), {400}),
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
    "zip absolute": (archive(zipped("/var/x"), "a.zip"), {400}),
    "zip with a link": (archive(zipped("x.nii.gz", link=True), "a.zip"), {400}),
    "zip empty": (archive(zipped("folder/"), "a.zip"), {400}),
    "tar leads out": (archive(tarred("../../../x"), "a.tar"), {400}),
    "tar absolute": (archive(tarred("/var/x"), "a.tar"), {400}),
    "tar with a link": (archive(tarred("x", tarfile.SYMTYPE), "a.tar"), {400}),
    "tar with a hard link": (archive(tarred("x", tarfile.LNKTYPE), "a.tar"), {400}),
    "tar with a device": (archive(tarred("x", tarfile.CHRTYPE), "a.tar"), {400}),
    "archive damaged": (archive(b"PK\3\4 nothing", "a.zip"), {400}),
    "file named dots": (put("/session/", files={"files": ("..", b"x")}), {400}),
    "NRRD names another file": (direct("x.nrrd", detached_nrrd()), {400}),
    "NRRD too large": (direct("x.nrrd", huge_nrrd()), {400}),
    "PNG too large": (direct("x.png", bomb("png")), {400}),
    "DICOM too large": (direct("x.dcm", bomb("dcm")), {400}),
    "study id very long": (infer("x" * 5000), {404}),
    "label notes too long": (
        put(
            f"/datastore/label?image={LABEL}&tag=x",
            files={"label": ("x.nii.gz", b"x")},
            data={"params": json.dumps({"notes": "x" * 100_000})},
        ),
        {400},
    ),
    "page with scripts from elsewhere": (get("/docs"), {404}),
    "strategy unknown": (post("/activelearning/best", json={}), {404}),
    "strategy in the body": (post("/activelearning/random", json={"strategy": "x"}), {404}),
    "scoring unknown": (post("/scoring/dice", json={}), {404}),
    "scoring adds to PYTHONPATH": (
        post("/scoring/anomaly_score", json={"bundle_path": "/var"}),
        {400},
    ),
    "scoring in the server": (post("/scoring/anomaly_score?run_sync=true", json={}), {400}),
    "training unknown": (post("/train/other", json={}), {404}),
    "training runs a config": (post("/train/aeflow", json={"config_file": "/var/x"}), {400}),
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


@pytest.fixture(scope="module")
def answers() -> Iterator[list[tuple[str, int, str]]]:
    """What each request got; AEFLOW_REQUESTS_TABLE names a Markdown file for it."""
    found: list[tuple[str, int, str]] = []
    yield found
    if table := os.environ.get("AEFLOW_REQUESTS_TABLE"):
        lines = [f"| {name} | {status} | {reason} |" for name, status, reason in found]
        Path(table).write_text("\n".join([HEADING, *lines, ""]))


def reason(response: requests.Response) -> str:
    """The reason that an answer gives, as a cell of a table."""
    told = response.json()["detail"]
    text = told if isinstance(told, str) else told[0]["msg"]
    return text.replace("|", "\\|").replace("<", "&lt;")[:160]


@pytest.mark.parametrize("name", TABLE)
def test_is_refused_and_leaves_no_trace(
    name: str, server: Any, outside: Path, answers: list[tuple[str, int, str]]
) -> None:
    send, right = TABLE[name]
    server.wait("scoring")
    before, temporary = listing(outside), listing(server.temporary)
    response = send(server)
    assert response.status_code in right, (response.status_code, response.text[:300])
    assert str(outside) not in response.text
    answers.append((name, response.status_code, reason(response)))
    assert answers[-1][2]
    assert listing(outside) == before
    assert listing(server.temporary) == temporary
    assert server.call("GET", "/info/").status_code == 200


def test_the_log_is_text_and_no_other_file(server: Any) -> None:
    for query in ("", "?logfile=/etc/passwd", "?lines=999999999&html=true"):
        answer = server.call("GET", f"/logs/{query}")
        assert answer.status_code == 200 and "root:" not in answer.text
        assert answer.headers["content-type"].startswith("text/plain")


def test_answers_are_kept_to_this_server_and_page(server: Any) -> None:
    for path in ("/info/", "/worklist", "/infer/nobody", f"/datastore/image?image={LABEL}"):
        headers = server.call("GET", path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
        assert "default-src 'none'" in headers["content-security-policy"]
    policy = server.call("GET", "/ohif/").headers["content-security-policy"]
    assert "default-src 'self'" in policy and "http" not in policy


def test_a_study_is_checked_by_its_checksum(server: Any) -> None:
    digest = hashlib.sha256(nifti(server)).hexdigest()
    path = f"/datastore/image?image={LABEL}&check_sum="
    for given, expected in (
        (digest, 200),
        (f"SHA256:{digest}", 200),
        ("0" * 64, 404),
        ("EVIL:00", 400),
        ("../x", 400),
    ):
        assert server.call("HEAD", path + given).status_code == expected, given


def test_a_session_ends_within_a_day(server: Any) -> None:
    for wanted in (10**9, 10**30):
        files = {"files": ("x.nii.gz", nifti(server))}
        made = server.call("PUT", f"/session/?expiry={wanted}", files=files)
        assert made.status_code == 200, made.text
        assert made.json()["session_info"]["expiry"] <= 86_400
        session = made.json()["session_id"]
        assert server.call("GET", f"/session/{session}?image=true").content == nifti(server)
        assert server.call("DELETE", f"/session/{session}").status_code == 200


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
