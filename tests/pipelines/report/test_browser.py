"""The page in a real browser, where there is one."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.report import ReportContent, ViewerVolume, write_report

NAMES = ("axial", "coronal", "sagittal")
SET = (
    "const e = document.getElementById('viewer-' + arguments[0]); e.value = arguments[1];"
    "e.checked = false; e.dispatchEvent(new Event('input'))"
)


@pytest.fixture(scope="module")
def report(report_folder: Path) -> Path:
    return report_folder / "report.html"


def show(browser: Any, width: int = 1280, dark: bool = False, media: str = "screen") -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": [scheme]})


def wait(browser: Any, ready: Callable[[Any], Any]) -> Any:
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, 60).until(ready)


def open_page(browser: Any, path: Path, volume: int = 1, **how: Any) -> None:
    show(browser, **how)
    browser.get("about:blank")
    browser.get(f"{path.as_uri()}#viewer-{volume}")
    viewer, case = (browser.find_element("id", name) for name in ("viewer", "viewer-case"))
    wait(browser, lambda _: viewer.get_attribute("data-ready") == "yes")
    wait(browser, lambda _: case.get_property("value") == str(volume - 1))
    wait(browser, lambda _: browser.switch_to.active_element.tag_name == "canvas")


def canvas(browser: Any, name: str) -> Any:
    return browser.find_element("id", f"viewer-{name}")


def pictures(browser: Any) -> tuple[str, ...]:
    script = "return arguments[0].map((n) => document.getElementById('viewer-' + n).toDataURL())"
    return tuple(browser.execute_script(script, NAMES))


def slices(browser: Any) -> list[int]:
    """Axial, coronal, sagittal."""
    return [int(canvas(browser, name).get_attribute("data-slice")) for name in NAMES]


def colour(browser: Any, name: str, across: float, down: float) -> list[int]:
    script = """
      const c = document.getElementById('viewer-' + arguments[0]);
      const [x, y] = [arguments[1] * c.width, arguments[2] * c.height];
      return Array.from(c.getContext('2d').getImageData(x, y, 1, 1).data);
    """
    return list(browser.execute_script(script, name, across, down))


def click(browser: Any, element: Any, across: float, down: float) -> None:
    from selenium.webdriver import ActionChains

    size = element.size
    offset = round((across - 0.5) * size["width"]), round((down - 0.5) * size["height"])
    ActionChains(browser).move_to_element_with_offset(element, *offset).click().perform()


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
        and not message["params"]["documentURL"].startswith(("chrome:", "about:"))
    ]
    assert {url for url in asked if not url.startswith("data:")} == {report.as_uri()}


def test_keys_wheel_and_sliders_move_all_planes(browser: Any, report: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    open_page(browser, report)
    axial = canvas(browser, "axial")
    assert slices(browser) == [11, 10, 7]  # where the map is highest
    seen = {pictures(browser)}
    steps = (
        (Keys.PAGE_DOWN, [10, 10, 7]),
        (Keys.HOME, [0, 10, 7]),
        (Keys.PAGE_UP, [1, 10, 7]),
        (Keys.ARROW_UP, [1, 11, 7]),
        (Keys.ARROW_RIGHT, [1, 11, 8]),  # to the left of the patient, as the file runs
        (Keys.SHIFT + Keys.ARROW_DOWN, [1, 1, 8]),
    )
    for key, expected in steps:
        axial.send_keys(key)
        assert slices(browser) == expected
        seen.add(pictures(browser))
    wheel = "arguments[0].dispatchEvent(new WheelEvent('wheel', {deltaY: -100, cancelable: true}))"
    browser.execute_script(wheel, axial)
    assert slices(browser) == [2, 1, 8]
    browser.find_element("id", "viewer-slice-coronal").send_keys(Keys.ARROW_RIGHT)
    assert slices(browser) == [2, 2, 8]
    told = browser.find_element("css selector", "output[for=viewer-slice-axial]")
    assert told.text == "2 (of 0 to 11)"
    assert "axial 2, coronal 2, sagittal 8;" in browser.find_element("id", "viewer-place").text
    assert len(seen) == 7


def test_a_click_moves_the_crosshair(browser: Any, report: Path) -> None:
    open_page(browser, report)
    click(browser, canvas(browser, "coronal"), 0.03, 0.97)  # the lowest slice, the patient's right
    assert slices(browser) == [0, 10, 0]
    # Where it points nothing is drawn over the picture, beside that its lines are.
    across, down = 0.5 / 16, 1 - 10.5 / 20
    red, green, _, _ = colour(browser, "axial", 0.5, down)
    assert green > red + 60
    assert colour(browser, "axial", across, down)[0] == colour(browser, "axial", across, down)[1]


def test_an_oblique_flipped_volume_lies_as_the_letters_say(browser: Any, report: Path) -> None:
    open_page(browser, report, volume=2)
    browser.execute_script(SET, "opacity", "0")
    # The marker, in voxels of RAS+, lies at 8 to 9 of 12, 11 to 12 of 16 and 6 to 7 of 10.
    right, front, top = 1 - 9 / 12, 1 - 12 / 16, 1 - 7 / 10
    assert slices(browser) == [2, 4, 8]  # stored towards I, P and R
    for name, across, down, letters in (
        ("axial", right, front, "RLAP"),
        ("coronal", right, top, "RLSI"),
        ("sagittal", front, top, "APSI"),
    ):
        label = canvas(browser, name).get_attribute("aria-label")
        left, end, above, below = letters
        assert label == (
            f"{name} plane: {left} at the left, {end} at the right, {above} on top, {below} below"
        )
        assert colour(browser, name, across, down)[0] > 200
        for mirrored in ((1 - across, down), (across, 1 - down)):
            assert colour(browser, name, *mirrored)[0] < 100
    sizes = {name: canvas(browser, name).size for name in NAMES}
    for name, ratio in (("axial", 12 / 16), ("coronal", 12 / 30), ("sagittal", 16 / 30)):
        shape = sizes[name]["width"] / sizes[name]["height"]
        assert shape == pytest.approx(ratio, rel=0.02)


def test_the_strip_tells_and_chooses_slices(browser: Any, report: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    open_page(browser, report, volume=2)
    strip = browser.find_element("id", "viewer-strip")
    assert strip.get_attribute("aria-valuetext") == "slice 2, 4.00"
    title = browser.find_element("id", "viewer-strip-title")
    assert title.text == (
        "Score of each axial slice, from 0.00 to 4.00; dashed: threshold 1.50. Slice 2: 4.00"
    )
    bars = [
        one.get_attribute("d").count("z") for one in strip.find_elements("css selector", ".bars")
    ]
    assert bars == [7, 1]  # two of ten were not scored
    ends = browser.find_elements("css selector", ".ends span")
    assert [end.text for end in ends] == ["I, slice 9", "S, slice 0"]
    click(browser, strip, 0.45, 0.5)
    assert strip.get_attribute("aria-valuetext") == "slice 5, 0.50" and slices(browser)[0] == 5
    strip.send_keys(Keys.ARROW_RIGHT)
    assert slices(browser)[0] == 4
    strip.send_keys(Keys.HOME)
    assert strip.get_attribute("aria-valuetext") == "slice 9, not scored"
    button = browser.find_element("id", "viewer-worst")
    assert button.text == "Worst slice (2)"
    button.click()
    assert slices(browser) == [2, 4, 8]


def test_without_scores_the_strip_shows_the_map(browser: Any, report: Path) -> None:
    open_page(browser, report)
    title = browser.find_element("id", "viewer-strip-title").text
    assert (
        title == "Highest value of the map of each axial slice, from 0.00 to 5.50. Slice 11: 5.50"
    )


def test_image_map_and_mask_can_be_adjusted(browser: Any, report: Path) -> None:
    open_page(browser, report)
    first = pictures(browser)
    seen = [first]
    for name, value in (("width", "200"), ("level", "1200"), ("from", "5.9"), ("mask", "")):
        browser.execute_script(SET, f"{name}", value)
        seen.append(pictures(browser))
    assert len({one for three in seen for one in three}) == 3 * len(seen)
    for name, value in (("from", "2"), ("opacity", "0")):
        browser.execute_script(SET, name, value)
        seen.append(pictures(browser))
    assert seen[-2] != seen[-1] == seen[-3]  # a map that is not seen
    browser.find_element("id", "viewer-reset").click()
    browser.execute_script(SET, "opacity", "60")
    browser.execute_script("document.getElementById('viewer-mask').click()")
    assert pictures(browser) == first


def test_the_right_button_drags_window_and_level(browser: Any, report: Path) -> None:
    open_page(browser, report)
    before = pictures(browser), slices(browser)
    at = canvas(browser, "axial").rect
    scroll = browser.execute_script("return scrollY")
    x, y = at["x"] + 100, at["y"] - scroll + 100
    for kind, moved, buttons in (
        ("mousePressed", 0, 2),
        ("mouseMoved", 40, 2),
        ("mouseReleased", 40, 0),
    ):
        event = {"type": kind, "x": x + moved, "y": y + 20 * moved / 40, "buttons": buttons}
        browser.execute_cdp_cmd(
            "Input.dispatchMouseEvent", {**event, "button": "right", "clickCount": 1}
        )
    values = browser.execute_script(
        "return ['width', 'level'].map((n) => Number(document.getElementById('viewer-' + n).value))"
    )
    low, high = browser.execute_script(
        "return JSON.parse(document.getElementById('viewer-data').textContent)[0].window"
    )
    assert values == pytest.approx(
        [(high - low) * (1 + 40 / 300), (low + high) / 2 + (high - low) * 20 / 300], rel=1e-3
    )
    assert pictures(browser) != before[0] and slices(browser) == before[1]


def test_a_picture_can_be_saved(browser: Any, report: Path, tmp_path: Path) -> None:
    allow = {"behavior": "allow", "downloadPath": str(tmp_path)}
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", allow)
    open_page(browser, report, volume=2)
    browser.find_element("id", "viewer-save").click()
    saved = tmp_path / "second_axial_2.png"
    wait(browser, lambda _: saved.exists() and saved.stat().st_size)
    with Image.open(saved) as picture:
        shown = np.asarray(picture.convert("RGB")).astype(int)
    planes = browser.find_element("id", "viewer-planes").size
    assert shown.shape[1] == planes["width"] and shown.shape[0] > 0.8 * planes["height"]
    assert (shown[..., 1] - shown[..., 0] > 60).sum() > 500  # the crosshair
    assert shown[-40:].max() > 200  # what it shows, in words


def test_the_map_lies_where_it_belongs(browser: Any, report: Path) -> None:
    open_page(browser, report)
    # Column 5 of a file that runs to the left: 10.5 of 16 from the right, seen from the feet.
    inside = colour(browser, "axial", 6.5 / 16, 1 - 13.5 / 20)
    outside = colour(browser, "axial", 13.5 / 16, 1 - 13.5 / 20)
    assert outside[0] == outside[1] == outside[2]
    assert inside[0] > inside[2] + 20


def test_the_large_view_can_be_chosen(browser: Any, report: Path) -> None:
    open_page(browser, report)
    browser.execute_script(SET, "large", "0")
    heights = {name: canvas(browser, name).size["height"] for name in NAMES}
    assert max(heights, key=heights.__getitem__) == "sagittal"


def test_links_show_their_volume_again_and_again(browser: Any, report: Path) -> None:
    open_page(browser, report)
    link = browser.execute_script("""
      const link = document.getElementById('main').appendChild(document.createElement('a'));
      link.textContent = link.href = '#viewer-2';
      return link;
    """)
    caption = browser.find_element("id", "viewer-caption")
    for _ in range(2):
        link.click()
        wait(browser, lambda _: caption.text == "score 4.0, flagged")
        assert (
            0
            <= browser.execute_script(
                "return document.getElementById('viewer').getBoundingClientRect().top"
            )
            < 100
        )
        browser.execute_script(SET, "case", "0")
        wait(browser, lambda _: caption.text == "score 3.2, flagged")


def test_the_keyboard_reaches_everything(browser: Any, report: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    open_page(browser, report)
    browser.execute_script("document.querySelectorAll('details').forEach((one) => one.open = true)")
    every = browser.execute_script("""
      const found = document.querySelectorAll('a, button, input, select, summary, [tabindex="0"]');
      return [...found].filter((one) => !one.disabled && one.checkVisibility())
        .map((one, n) => one.dataset.stop = n);
    """)
    browser.execute_script("document.activeElement.blur(); scrollTo(0, 0)")
    browser.find_element("tag name", "body").click()
    reached = set()
    for _ in range(2 * len(every)):
        active = browser.switch_to.active_element
        reached.add(active.get_attribute("data-stop"))
        active.send_keys(Keys.TAB)
    assert reached >= {str(number) for number in every}


@pytest.mark.parametrize("width", [390, 1280])
def test_pages_scroll_down_only(browser: Any, report: Path, width: int) -> None:
    open_page(browser, report, width=width)
    script = "return document.documentElement.scrollWidth"
    assert browser.execute_script(script) <= width
    folded = "document.querySelectorAll('details').forEach((one) => { one.open = true; })"
    browser.execute_script(folded)
    assert browser.execute_script(script) <= width


def test_on_paper_the_slices_stand_still(browser: Any, report: Path) -> None:
    open_page(browser, report)
    show(browser, media="print")
    assert not browser.find_element("id", "viewer").is_displayed()
    assert browser.find_element("css selector", "#viewer-still img").is_displayed()
    show(browser)
    assert not browser.find_element("css selector", "#viewer-still img").is_displayed()


def test_without_the_means_the_slices_stay(browser: Any, report: Path) -> None:
    added = browser.execute_cdp_cmd(
        "Page.addScriptToEvaluateOnNewDocument", {"source": "delete window.DecompressionStream"}
    )
    browser.get(report.as_uri())
    try:
        missing = browser.find_element("id", "viewer-missing")
        wait(browser, lambda _: missing.is_displayed())
        assert not browser.find_element("id", "viewer").is_displayed()
        assert browser.find_element("css selector", "#viewer-still img").is_displayed()
    finally:
        browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)


def inference(content: ReportContent) -> ReportContent:
    rows = [replace(row, label=None) for row in content.rows]
    return replace(
        content, title="Inference", rows=rows, metrics=None, verdict=None, history=(), regions=()
    )


def training(content: ReportContent) -> ReportContent:
    rows = [replace(row, label=0) for row in content.rows]
    return replace(content, title="Training", rows=rows, metrics=None, verdict=None, failures=())


@pytest.mark.parametrize(
    ("made", "dark"), [(replace, False), (replace, True), (inference, True), (training, False)]
)
def test_axe_finds_nothing_serious(
    browser: Any,
    full_content: ReportContent,
    report: Path,
    tmp_path: Path,
    made: Callable[..., ReportContent],
    dark: bool,
) -> None:
    axe = pytest.importorskip("axe_core_python.selenium").Axe()
    path = report if made is replace else write_report(tmp_path, made(full_content))
    open_page(browser, path, dark=dark, width=390 if made is training else 1280)
    browser.execute_script("document.querySelectorAll('details').forEach((one) => one.open = true)")
    found = [
        (one["id"], [node["html"] for node in one["nodes"]])
        for one in axe.run(browser)["violations"]
        if one["impact"] in ("serious", "critical")
    ]
    assert found == []


def test_a_volume_of_one_slice_and_no_map_is_shown(
    browser: Any, full_content: ReportContent, tmp_path: Path
) -> None:
    flat = np.zeros((6, 7, 1), np.float32)
    volume = ViewerVolume("flat", flat, flat, None, np.eye(4))
    content = replace(inference(full_content), rows=(), examples=(), volumes=[volume])
    path = write_report(tmp_path, content)
    browser.get_log("browser")
    open_page(browser, path)
    assert slices(browser) == [0, 3, 3]
    assert browser.get_log("browser") == []
