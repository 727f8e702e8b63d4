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
SHOWN = ("StudyInstanceUID", "SeriesInstanceUID", "Modality", "PatientID", "PatientName")
BOUNDARY = "part-of-answer"


def instances() -> list[tuple[Path, pydicom.Dataset]]:
    files = sorted(FOLDER.rglob("*.dcm"))
    return [(one, pydicom.dcmread(one, stop_before_pixels=True)) for one in files]


def series(filters: dict[str, str]) -> list[dict[str, object]]:
    found = {}
    for _, header in instances():
        if all(str(header.get(name, "")) == value for name, value in filters.items()):
            short = pydicom.Dataset()
            for name in SHOWN:
                setattr(short, name, header.get(name, ""))
            found[str(header.SeriesInstanceUID)] = short.to_json_dict()
    return list(found.values())


class Store(BaseHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass

    def answer(self, content: bytes, kind: str = "application/dicom+json") -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        asked = {name: values[0] for name, values in parse_qs(url.query).items()}
        filters = {n: v for n, v in asked.items() if n in SHOWN}
        if url.path == "/series":
            self.answer(json.dumps(series(filters)).encode())
            return
        place = re.fullmatch(r"/studies/([\d.]+)/series/([\d.]+)(/metadata)?", url.path)
        if not place:
            self.send_error(404)
            return
        members = [p for p, h in instances() if str(h.SeriesInstanceUID) == place.group(2)]
        if place.group(3):
            listed = [pydicom.dcmread(p, stop_before_pixels=True).to_json_dict() for p in members]
            self.answer(json.dumps(listed).encode())
            return
        content = b"".join(
            b"--%s\r\nContent-Type: application/dicom\r\n\r\n%s\r\n"
            % (BOUNDARY.encode(), p.read_bytes())
            for p in members
        )
        kind = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'
        self.answer(content + f"--{BOUNDARY}--\r\n".encode(), kind)

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
