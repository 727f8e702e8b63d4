"""How the server starts: without a network, without its store, and behind a proxy with a log-in."""

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

ROOT = Path(__file__).parents[2]
PYTHON = os.environ.get("AEFLOW_LABEL_PYTHON", "")
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
HOST = "label.hospital.example"
USER = ("reader", "a good password")


def alone() -> list[str]:
    """A command that runs another one in a network of its own; skips where there is none."""
    command = ["unshare", "--map-root-user", "--net"]
    if not shutil.which("unshare") or subprocess.run([*command, "true"], check=False).returncode:
        pytest.skip("needs unshare and the right to make a network namespace")
    return command


@pytest.fixture(scope="module")
def studies(volumes: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("studies")
    shutil.copy(volumes[0], folder / "study0.nii.gz")
    return folder


def test_it_starts_and_infers_without_any_network(
    studies: Path,
    trained: Path,
    how_to_start: Callable[..., list[str]],
    where_to_start: Callable[[Path], dict[str, str]],
    tmp_path: Path,
) -> None:
    (tmp_path / "tmp").mkdir()
    script = str(Path(__file__).with_name("offline.py"))
    command = [*alone(), PYTHON, script, "8000", "study0", *how_to_start(studies, trained, 8000)]
    environment = where_to_start(tmp_path / "tmp")
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["outside"] is False
    assert told["info"]["name"] == "AE-Flow" and "score" in told["words"]


def test_a_store_that_is_away_is_told_and_waited_for(
    start_server: Callable[..., Any],
    trained: Path,
    any_port: Callable[[], int],
    store_environment: dict[str, str],
) -> None:
    url = f"http://127.0.0.1:{any_port()}"
    with start_server(url, trained, store_environment, expected=502, auto_score="true") as server:
        for answer in (
            server.call("GET", "/info/"),
            server.infer("1.2.3"),
            server.call("GET", "/proxy/dicom/qido/studies"),
        ):
            assert answer.status_code == 502
            assert "the DICOMweb store did not answer" in answer.json()["detail"]
        assert "cannot be asked" in server.log.read_text()


@pytest.fixture(scope="module")
def behind(
    studies: Path,
    trained: Path,
    start_server: Callable[..., Any],
    any_port: Callable[[], int],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[requests.Session]:
    """A session that asks the app through the guide's nginx; its ``url`` and ``verify`` are set."""
    if not (NGINX and shutil.which("openssl")):
        pytest.skip("needs nginx and openssl")
    place = tmp_path_factory.mktemp("nginx")
    port = any_port()
    with start_server(studies, trained, origins=f"https://{HOST}") as server:
        _write_site(place, port, int(server.url.rsplit(":", 1)[1]))
        command = [NGINX, "-p", str(place), "-c", str(place / "nginx.conf"), "-e", "stderr"]
        process = subprocess.Popen(command, stderr=(place / "log.txt").open("wb"))
        try:
            session = requests.Session()
            session.trust_env = False  # a CA bundle of the environment would win
            session.verify, session.auth = str(place / "label.crt"), USER
            session.headers["Host"] = HOST
            session.url = f"https://127.0.0.1:{port}"  # type: ignore[attr-defined]
            _wait_for(session, place / "log.txt")
            yield session
        finally:
            process.terminate()
            process.wait(20)


def _write_site(place: Path, port: int, app: int) -> None:
    """The guide's example with this machine's ports and places."""
    certificate = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=x"]
    certificate += ["-addext", "subjectAltName=IP:127.0.0.1"]
    keys = ["-keyout", str(place / "label.key"), "-out", str(place / "label.crt")]
    subprocess.run(["openssl", *certificate, *keys], check=True, capture_output=True)
    hashed = ["openssl", "passwd", "-apr1", USER[1]]
    password = subprocess.run(hashed, check=True, capture_output=True, text=True).stdout
    (place / "label.users").write_text(f"{USER[0]}:{password}")
    site = (ROOT / "docs" / "monailabel_nginx.conf").read_text()
    for ours, theirs in (
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("server 127.0.0.1:8000", f"server 127.0.0.1:{app}"),
        ("/etc/ssl/label.", f"{place}/label."),
        ("/etc/nginx/label.users", f"{place}/label.users"),
    ):
        assert ours in site
        site = site.replace(ours, theirs)
    temporary = " ".join(
        f"{name}_temp_path {place}/{name};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;" if os.geteuid() == 0 else ""
    (place / "nginx.conf").write_text(
        f"{user} daemon off; pid {place}/nginx.pid; events {{}}\n"
        f"http {{ access_log off; {temporary}\n{site} }}\n"
    )


def _wait_for(session: Any, log: Path) -> None:
    for _ in range(100):
        with contextlib.suppress(requests.ConnectionError):
            if session.get(f"{session.url}/info/", timeout=60).status_code == 200:
                return
        time.sleep(0.1)
    raise RuntimeError(log.read_text())


def test_the_proxy_lets_in_who_is_known(behind: Any) -> None:
    for wrong in (None, (USER[0], "guess"), ("nobody", USER[1])):
        behind.auth = wrong
        assert behind.get(f"{behind.url}/info/").status_code == 401
        assert behind.post(f"{behind.url}/infer/aeflow?image=study0").status_code == 401
    behind.auth = USER
    assert behind.get(f"{behind.url}/info/").json()["name"] == "AE-Flow"
    words = behind.post(f"{behind.url}/infer/aeflow?image=study0&output=json").json()
    assert words["score"]


def test_pages_of_the_proxys_site_may_use_the_server_and_no_others(behind: Any) -> None:
    for origin, expected in ((f"https://{HOST}", 200), ("https://evil.example", 403)):
        answer = behind.get(f"{behind.url}/info/", headers={"Origin": origin})
        assert answer.status_code == expected, origin
    page = behind.get(f"{behind.url}/ohif/")
    assert page.status_code == 200 and "Content-Security-Policy" in page.headers


def test_a_viewers_many_requests_pass_and_its_inferences_are_limited(behind: Any) -> None:
    def get(_: int) -> int:
        return int(behind.get(f"{behind.url}/datastore/image?image=study0").status_code)

    def infer(_: int) -> int:
        url = f"{behind.url}/infer/aeflow?image=nobody"
        return int(behind.post(url).status_code)

    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(get, range(120))) == {200}
        assert set(pool.map(infer, range(120))) == {404, 503}


def test_only_named_addresses_train_and_remove(behind: Any, studies: Path) -> None:
    content = (studies / "study0.nii.gz").read_bytes()
    upload = {"file": ("new.nii.gz", content)}
    added = behind.put(f"{behind.url}/datastore/image?image=new", files=upload)
    assert added.status_code == 200, added.text
    for method, path in (
        ("POST", "/train/aeflow"),
        ("DELETE", "/train/"),
        ("POST", "/batch/infer/aeflow"),
        ("DELETE", "/datastore/image?id=new"),
    ):
        assert behind.request(method, f"{behind.url}{path}", json={}).status_code == 403, path
    assert (studies / "new.nii.gz").is_file()
    assert behind.get(f"{behind.url}/train/").status_code == 404  # nothing was ever trained
