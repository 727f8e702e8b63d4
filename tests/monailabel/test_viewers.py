"""The worklist and OHIF in a real browser."""

import io
import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pydicom
import pytest
from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait


def wait(browser: Any, condition: Callable[[Any], Any], seconds: float = 60.0) -> Any:
    return WebDriverWait(browser, seconds).until(condition)


def shown(browser: Any) -> np.ndarray[Any, Any]:
    """The pixels of the page, (rows, columns, 3)."""
    return np.asarray(Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB"), int)


def tinted(pixels: np.ndarray[Any, Any]) -> tuple[int, int]:
    """Numbers of amber and of red pixels."""
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    amber = (red - green < 90) & (green - blue > 60) & (red > green)
    return int(amber.sum()), int(((red - green > 90) & (abs(green - blue) < 60)).sum())


def asked(browser: Any) -> set[str]:
    """Hosts that have answered the page since the last call."""
    messages = [json.loads(one["message"])["message"] for one in browser.get_log("performance")]
    urls = [
        one["params"]["response"]["url"]
        for one in messages
        if one["method"] == "Network.responseReceived"
    ]
    return {urlsplit(url).netloc for url in urls if url.startswith("http")}


def test_the_worklist_orders_marks_and_asks_nobody_else(browser: Any, server: Any) -> None:
    server.wait("scoring")
    browser.get_log("browser")
    browser.get(f"{server.url}/worklist")
    rows = browser.find_elements(By.CSS_SELECTOR, "tbody tr")
    names = [row.find_element(By.CSS_SELECTOR, ".study").text for row in rows]
    objects = server.get("/datastore/?output=all")["objects"]
    score = {name: objects[name]["image"]["info"]["aeflow"]["score"] for name in names}
    assert {"study0", "study1", "study2", "series.one"} <= set(names)
    assert names == sorted(names, key=lambda name: -score[name])
    assert f"{score[names[0]]:.2f}" in rows[0].text
    for row, name in zip(rows, names, strict=True):
        reason = objects[name]["image"]["info"]["aeflow"]["out_of_scope"]
        assert ("out of scope" in row.text) == bool(reason) and reason in row.text
    for expected in (True, False):
        button = browser.find_element(By.CSS_SELECTOR, "[data-image='series.one']")
        button.click()
        wait(browser, partial(is_marked, expected=expected))
        assert info(server, "series.one")["normal"] is expected
    assert browser.get_log("browser") == []


def info(server: Any, name: str) -> dict[str, Any]:
    found: dict[str, Any] = server.get(f"/datastore/image/info?image={name}")
    return found


def is_marked(browser: Any, expected: bool) -> bool:
    button = "document.querySelector(\"[data-image='series.one']\")"
    found = browser.execute_script(f"return {button}?.dataset.normal")
    return bool(found == str(not expected).lower())


@pytest.fixture(scope="module")
def stored(
    store: tuple[str, list[Path]],
    trained: Path,
    start_server: Callable[..., Any],
    store_environment: dict[str, str],
) -> Iterator[Any]:
    with start_server(store[0], trained, store_environment, auto_score="true") as running:
        yield running


def test_ohif_shows_the_bands_in_their_colours(
    browser: Any, stored: Any, store: tuple[str, list[Path]]
) -> None:
    header = pydicom.dcmread(store[1][0], stop_before_pixels=True)
    stored.wait("scoring")
    browser.get(f"{stored.url}/worklist")
    asked(browser)
    link = browser.find_element(By.CSS_SELECTOR, ".study a")
    assert link.get_attribute("href").endswith(str(header.StudyInstanceUID))
    link.click()
    wait(browser, lambda b: b.find_elements(By.CSS_SELECTOR, ".settingsTable .actionButton"))
    wait(browser, lambda b: shown(b)[150:, 300:900].std() > 20)  # the images are drawn
    address = browser.find_element(By.ID, "monailabelServerURL")
    assert address.get_attribute("value") == f"{stored.url}/"
    browser.execute_script("document.querySelector('.settingsTable .actionButton').click()")
    run = "[...document.querySelectorAll('.modelSelector button')].find(b => b.offsetParent)"
    wait(browser, lambda b: b.execute_script(f"return Boolean({run})"))
    time.sleep(2)  # OHIF gives the segments their colours a second after they were made
    before = tinted(shown(browser))
    browser.execute_script(f"{run}.click()")
    wait(browser, lambda b: all(n > m + 20 for n, m in zip(tinted(shown(b)), before, strict=True)))
    assert asked(browser) == {urlsplit(stored.url).netloc}
