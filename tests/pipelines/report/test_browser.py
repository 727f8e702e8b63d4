"""The page in a real browser, where there is one."""

import json
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def report(report_folder: Path) -> Path:
    return report_folder / "report.html"


def open_page(browser: Any, path: Path, width: int = 1280) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(path.as_uri())
    viewer = browser.find_element("id", "viewer")
    WebDriverWait(browser, 60).until(lambda _: viewer.get_attribute("data-ready") == "yes")


def picture(browser: Any) -> str:
    return browser.execute_script("return document.getElementById('viewer-canvas').toDataURL()")


def current(browser: Any) -> str:
    return browser.find_element("id", "viewer").get_attribute("data-slice")


def test_it_opens_without_errors_or_requests(browser: Any, report: Path) -> None:
    browser.get_log("browser")
    browser.get_log("performance")
    open_page(browser, report)
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    # The browser's own start page loads files of its own.
    asked = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
        and not message["params"]["documentURL"].startswith("chrome:")
    ]
    assert [url for url in asked if not url.startswith("data:")] == [report.as_uri()]


def test_slices_move_by_keys_wheel_and_slider(browser: Any, report: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    open_page(browser, report)
    canvas = browser.find_element("id", "viewer-canvas")
    assert current(browser) == "11"
    seen = {picture(browser)}
    for key, slice_number in ((Keys.ARROW_DOWN, "10"), (Keys.HOME, "0"), (Keys.ARROW_UP, "1")):
        canvas.send_keys(key)
        assert current(browser) == slice_number
        seen.add(picture(browser))
    wheel = "arguments[0].dispatchEvent(new WheelEvent('wheel', {deltaY: -100, cancelable: true}))"
    browser.execute_script(wheel, canvas)
    assert current(browser) == "2"
    slider = browser.find_element("id", "viewer-slice")
    slider.send_keys(Keys.ARROW_RIGHT)
    assert current(browser) == "3"
    assert browser.find_element("id", "viewer-number").text == "3 (of 0 to 11)"
    assert len(seen | {picture(browser)}) == 5


def test_view_opacity_mask_and_volume_can_be_chosen(browser: Any, report: Path) -> None:
    open_page(browser, report)
    choose = (
        "const e = document.getElementById(arguments[0]); e.value = arguments[1];"
        "e.checked = false; e.dispatchEvent(new Event('input'))"
    )
    seen = [picture(browser)]
    for name, value in (("opacity", "0"), ("mask", ""), ("plane", "0")):
        browser.execute_script(choose, f"viewer-{name}", value)
        seen.append(picture(browser))
    assert len(set(seen)) == 4
    # The file's first axis runs against that of RAS+.
    canvas = browser.find_element("id", "viewer-canvas")
    before = int(current(browser))
    canvas.send_keys("\ue013")
    assert int(current(browser)) == before - 1


def test_the_map_lies_where_it_belongs(browser: Any, report: Path) -> None:
    open_page(browser, report)
    # Column 5 of a file that runs to the left: 10.5 of 16 from the right, seen from the feet.
    script = """
      const c = document.getElementById('viewer-canvas'), g = c.getContext('2d');
      const at = (x, y) => Array.from(g.getImageData(x * c.width, y * c.height, 1, 1).data);
      return [at(5.5 / 16, 1 - 12.5 / 20), at(13.5 / 16, 1 - 12.5 / 20)];
    """
    inside, outside = browser.execute_script(script)
    assert outside[0] == outside[1] == outside[2]
    assert inside[0] > inside[2] + 20


def test_a_phone_scrolls_down_only(browser: Any, report: Path) -> None:
    open_page(browser, report, width=390)
    script = "return document.documentElement.scrollWidth"
    assert browser.execute_script(script) <= 390
    folded = "document.querySelectorAll('details').forEach((one) => { one.open = true; })"
    browser.execute_script(folded)
    assert browser.execute_script(script) <= 390


def test_without_the_means_the_slices_stay(browser: Any, report: Path) -> None:
    added = browser.execute_cdp_cmd(
        "Page.addScriptToEvaluateOnNewDocument", {"source": "delete window.DecompressionStream"}
    )
    browser.get(report.as_uri())
    try:
        from selenium.webdriver.support.ui import WebDriverWait

        missing = browser.find_element("id", "viewer-missing")
        WebDriverWait(browser, 60).until(lambda _: missing.is_displayed())
        assert not browser.find_element("id", "viewer").is_displayed()
        assert browser.find_element("css selector", "#viewer-still img").is_displayed()
    finally:
        browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)
