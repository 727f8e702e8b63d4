"""A small DICOMweb store for tests: QIDO, WADO and STOW of a folder, on the loopback interface.

Run as ``python dicomweb_store.py <folder> <port>``; it ends with its parent.
"""

import io
import json
import os
import re
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pydicom

FOLDER, PORT = Path(sys.argv[1]), int(sys.argv[2])
STUDY = ("StudyInstanceUID", "PatientID", "PatientName", "StudyDate", "StudyTime", "StudyID")
SERIES = (*STUDY, "SeriesInstanceUID", "Modality", "SeriesNumber", "SeriesDescription")
INSTANCE = (*SERIES, "SOPClassUID", "SOPInstanceUID", "InstanceNumber")
UID = r"([\d.]+)"
BOUNDARY = "part-of-answer"
Found = list[tuple[Path, pydicom.Dataset]]


def instances(**wanted: str) -> Found:
    found = []
    for one in sorted(FOLDER.rglob("*.dcm")):
        header = pydicom.dcmread(one, stop_before_pixels=True)
        if all(str(header.get(name, "")) == value for name, value in wanted.items()):
            found.append((one, header))
    return found


def listed(found: Found, names: tuple[str, ...], key: str) -> list[dict[str, object]]:
    """What QIDO tells: one entry for each value of ``key``."""
    entries = {}
    for _, header in found:
        members = [h for _, h in found if h.get(key) == header.get(key)]
        short = pydicom.Dataset()
        for name in names:
            if name in header:
                setattr(short, name, header[name].value)
        short.ModalitiesInStudy = sorted({str(h.Modality) for h in members})
        short.NumberOfStudyRelatedInstances = len(members)
        short.NumberOfSeriesRelatedInstances = len(members)
        entries[str(header[key].value)] = short.to_json_dict()
    return list(entries.values())


class Store(BaseHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass

    def answer(self, content: bytes, kind: str = "application/dicom+json") -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def tell(self, values: list[dict[str, object]]) -> None:
        self.answer(json.dumps(values).encode())

    def parts(self, contents: list[bytes], kind: str) -> None:
        head = f"--{BOUNDARY}\r\nContent-Type: {kind}\r\n\r\n".encode()
        content = b"".join(head + one + b"\r\n" for one in contents)
        whole = f'multipart/related; type="{kind}"; boundary={BOUNDARY}'
        self.answer(content + f"--{BOUNDARY}--\r\n".encode(), whole)

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        asked = {name: values[0] for name, values in parse_qs(url.query).items()}
        filters = {name: value for name, value in asked.items() if name in INSTANCE}
        if url.path == "/studies":
            self.tell(listed(instances(**filters), STUDY, "StudyInstanceUID"))
            return
        if url.path == "/series":
            self.tell(listed(instances(**filters), SERIES, "SeriesInstanceUID"))
            return
        place = re.fullmatch(
            rf"/studies/{UID}(?:/series/?{UID}?)?(?:/instances/?{UID}?)?(/metadata|/frames/1)?",
            url.path,
        )
        if not place:
            self.send_error(404)
            return
        names = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
        wanted = {n: v for n, v in zip(names, place.groups(), strict=False) if v}
        self.retrieve(url.path, instances(**wanted), place.group(4))

    def retrieve(self, path: str, found: Found, what: str | None) -> None:
        if what == "/metadata":
            self.tell([header.to_json_dict() for _, header in found])
        elif what == "/frames/1":
            pixels = [pydicom.dcmread(one).PixelData for one, _ in found]
            self.parts(pixels, "application/octet-stream")
        elif path.rstrip("/").endswith("/series"):
            self.tell(listed(found, SERIES, "SeriesInstanceUID"))
        elif path.rstrip("/").endswith("/instances"):
            self.tell(listed(found, INSTANCE, "SOPInstanceUID"))
        else:
            self.parts([one.read_bytes() for one, _ in found], "application/dicom")

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        boundary = re.findall(r'boundary="?([^";]+)', self.headers["Content-Type"])[0].encode()
        reply = pydicom.Dataset()
        for number, part in enumerate(content.split(b"--" + boundary)[1:-1]):
            data = part.split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n")
            header = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True)
            (FOLDER / f"stored-{time.time_ns()}-{number}.dcm").write_bytes(data)
            study, one = header.StudyInstanceUID, header.SeriesInstanceUID
            reply.RetrieveURL = f"http://127.0.0.1:{PORT}/studies/{study}/series/{one}"
        self.answer(json.dumps(reply.to_json_dict()).encode())


def follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=follow, args=(os.getppid(),), daemon=True).start()
    ThreadingHTTPServer(("127.0.0.1", PORT), Store).serve_forever()
