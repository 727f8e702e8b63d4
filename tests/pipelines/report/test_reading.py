"""The reading list: what it tells, and how it works in a real browser."""

import base64
import csv
import io
import json
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from PIL import Image

from pipelines.metrics.rows import ScoreRow
from pipelines.report import ReportContent, reading, write_report
from pipelines.report.reading import MOST_PLAIN, reading_list

HOSTILE = '</script><img src=x onerror="window.broken=1">,"quoted"'
COUNT = 5_000
REASON = "it seems upside down"


def jpeg() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (72, 72), "grey").save(stream, "JPEG")
    return stream.getvalue()


def make_row(number: int) -> ScoreRow:
    """Case n has score n / 100; every hundredth is flagged, case 7 is out of scope."""
    return ScoreRow(
        case=HOSTILE if number == 42 else f"case{number}",
        patient="secret",
        level="image",
        slice=0,
        label=None,
        score=number / 100,
        parts={"flow": -number / 50, "head": 0.5},
        percentile=number / 50,
        p_value=0.01234,
        flagged=number % 100 == 0,
        score_std=0.25,
        in_scope=number != 7,
        out_of_scope=REASON if number == 7 else "",
    )


@pytest.fixture(scope="module")
def content(full_content: ReportContent) -> ReportContent:
    rows = [make_row(n) for n in range(COUNT)]
    return replace(
        full_content, title="Inference", rows=rows, metrics=None, history=(), regions=(),
        examples=(), stability=(), failures=(), notes=(), about={}, verdict=None,
        volumes=[replace(one, name=f"case{n}") for n, one in enumerate(full_content.volumes)],
        thumbnails={row.case: jpeg() for row in rows[3:]}, panels=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def page(content: ReportContent, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(tmp_path_factory.mktemp("reading"), content)


def test_cases_come_by_score_with_what_is_known_of_any(content: ReportContent) -> None:
    rows = [
        ScoreRow("a", "secret", "volume", None, 1, 1.0, {"flow": 2.0}, flagged=True),
        *(ScoreRow("a", "secret", "slice", n, 0, score) for n, score in enumerate((1.0, 3.0, 2.0))),
        ScoreRow("b", "secret", "volume", None, None, 4.0, {"flow": float("nan")}),
        ScoreRow("c", "secret", "volume", None, 0, float("nan"), {"flow": 0.0}, flagged=False),
    ]
    listed = reading_list(replace(content, rows=rows, thumbnails={"a": b"JPEG"}))
    assert listed is not None
    assert [one.name for one in listed.fields] == [
        "case", "score", "flagged", "highest_slice", "label", "flow_score",
    ]  # fmt: skip
    assert [list(row) for row in listed.rows] == [
        ["b", 4.0, "", "", "", ""],
        ["a", 1.0, 1, 1, 1, 2.0],
        ["c", "", 0, "", 0, 0.0],
    ]
    assert [base64.b64decode(one) for one in listed.pictures] == [b"", b"JPEG", b""]
    json.dumps(listed.data, allow_nan=False)
    told = [[text for _, text, _ in row["cells"]] for row in listed.plain]
    assert told[:2] == [["4.00", "", "", "", ""], ["1.00", "flagged", "1", "anomalous", "2.00"]]
    assert reading_list(replace(content, rows=rows[1:4])) is None


def test_remarks_stand_below(content: ReportContent) -> None:
    listed = reading_list(replace(content, rows=content.rows[7:8]))
    assert listed is not None and "secret" not in json.dumps(listed.data)
    (row,) = listed.plain
    assert [(text, remark) for _, text, remark in row["cells"]] == [
        ("0.07", "± 0.25"), ("not flagged", None), ("0.1", "p 0.012"), ("out of scope", REASON),
        ("-0.14", None), ("0.50", None),
    ]  # fmt: skip


def test_without_javascript_the_first_rows_stay(page: Path) -> None:
    text = page.read_text()
    body = text[text.index('<table id="reading-table"') :].split("</table>")[0]
    assert body.count("<tr") == MOST_PLAIN + 1 and body.count("<img") == MOST_PLAIN
    assert body.count(">panel</a>") == MOST_PLAIN and 'href="panels/case4999.png"' in body
    assert "case4999" in body and "case4800" in body and "case4799" not in body
    assert f"all {COUNT} cases lie in scores.csv" in re.sub(r"\s+", " ", text)
    assert "<img src=x" not in text and HOSTILE not in text


def test_only_the_first_have_pictures(
    content: ReportContent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "MOST_PICTURED", 300)
    listed = reading_list(content)
    assert listed is not None and len(listed.pictures) == 300 and len(listed.rows) == COUNT


@pytest.fixture
def opened(browser: Any, page: Path) -> Any:
    size = {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get_log("browser")
    browser.get(page.as_uri())
    yield browser
    assert browser.get_log("browser") == []
    assert browser.execute_script("return window.broken") is None


READ = """
  const rows = [...document.querySelectorAll('#reading-table tbody tr:not(.space)')];
  return rows.map((row) => [...row.cells].slice(1).map((cell) => cell.innerText));
"""


def rows_of(browser: Any) -> list[list[str]]:
    found: list[list[str]] = browser.execute_script(READ)
    return found


def shown(browser: Any) -> list[str]:
    return [row[0].split("\n")[0] for row in rows_of(browser)]


def head(browser: Any, title: str) -> Any:
    return browser.find_element("xpath", f"//*[@id='reading-table']//th[button='{title}']")


def test_few_of_many_rows_are_made(opened: Any) -> None:
    first = rows_of(opened)
    assert len(first) < 40
    assert first[0] == [
        "case4999\npanel", "49.99\n± 0.25", "not flagged", "100.0\np 0.012", "in scope", "-99.98",
        "0.50",
    ]  # fmt: skip
    scroll = "const l = document.getElementById('reading-list'); l.scrollTop = arguments[0]"
    opened.execute_script(scroll + "; l.dispatchEvent(new Event('scroll'))", 200_000)
    assert len(rows_of(opened)) < 40 and "case4999" not in shown(opened)
    table = opened.find_element("id", "reading-table")
    assert table.get_attribute("aria-rowcount") == str(COUNT + 1)
    number = int(shown(opened)[0].removeprefix("case"))
    index = opened.find_element("css selector", "#reading-table tr[aria-rowindex]")
    assert index.get_attribute("aria-rowindex") == str(COUNT - number + 1)


def test_heads_sort_and_turn_round(opened: Any) -> None:
    assert head(opened, "score").get_attribute("aria-sort") == "descending"
    for title, order, first in (
        ("score", "ascending", "case0"),
        ("flow", "descending", "case0"),
        ("case", "ascending", HOSTILE),
        ("case", "descending", "case4999"),
        ("decision", "descending", "case4900"),
        ("scope", "ascending", "case7"),
    ):
        head(opened, title).find_element("tag name", "button").click()
        assert head(opened, title).get_attribute("aria-sort") == order
        assert shown(opened)[0] == first
        assert len(opened.find_elements("css selector", "[aria-sort]")) == 1
    head(opened, "case").find_element("tag name", "button").click()
    assert shown(opened)[1:4] == ["case0", "case1", "case2"]  # by number


def test_search_and_filters_narrow_the_list(opened: Any) -> None:
    search = opened.find_element("id", "reading-search")
    search.send_keys("CASE490")
    assert shown(opened) == [*(f"case490{n}" for n in range(9, -1, -1)), "case490"]
    opened.find_element("name", "flagged").click()
    assert shown(opened) == ["case4900"]
    assert opened.find_element("id", "reading-count").text == f"1 of {COUNT} cases"
    opened.find_element("name", "in_scope").click()
    assert shown(opened) == []
    opened.find_element("name", "flagged").click()
    search.clear()
    search.send_keys("upside")
    assert rows_of(opened)[0][4] == f"out of scope\n{REASON}"
    assert shown(opened) == ["case7"]


def test_a_case_that_the_viewer_lacks_has_its_panel(opened: Any) -> None:
    opened.find_element("id", "reading-search").send_keys("onerror")
    assert shown(opened) == [HOSTILE]
    link = opened.find_element("css selector", "#reading-table tbody a")
    assert link.get_attribute("href").endswith(f"/panels/{quote(HOSTILE, safe='')}.png")


def test_rows_as_shown_are_saved(opened: Any, tmp_path: Path) -> None:
    allow = {"behavior": "allow", "downloadPath": str(tmp_path)}
    opened.execute_cdp_cmd("Browser.setDownloadBehavior", allow)
    opened.find_element("id", "reading-search").send_keys("onerror")
    opened.find_element("id", "reading-save").click()
    path, late = tmp_path / "reading_list.csv", time.monotonic() + 60
    while not path.exists() and time.monotonic() < late:
        time.sleep(0.05)
    with path.open(newline="", encoding="utf-8") as stream:
        (row,) = csv.DictReader(stream)
    expected = make_row(42).cells()
    assert row == {name: str(expected[name]) for name in row}
    assert {"case", "score", "score_std", "flow_score", "p_value", "out_of_scope"} <= set(row)


def test_keys_alone_reach_everything(opened: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    def press(*keys: str) -> str:
        for key in keys:
            opened.switch_to.active_element.send_keys(key)
        return str(opened.execute_script("return document.activeElement.innerText"))

    def focused() -> str:
        script = "return document.activeElement.querySelector('th span').textContent"
        return str(opened.execute_script(script))

    opened.find_element("id", "reading-search").click()
    press(*[Keys.TAB] * 2)
    assert opened.switch_to.active_element.get_attribute("name") == "in_scope"
    assert press(Keys.TAB) == "Save these rows as CSV"
    assert press(Keys.TAB) == "case"
    press(*[Keys.TAB] * 7)
    assert focused() == "case4999"
    press(Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_UP)
    assert focused() == "case4998"
    press(Keys.PAGE_DOWN)
    assert int(focused().removeprefix("case")) < 4995
    press(Keys.END)
    assert focused() == "case0"
    inside = """
      const row = document.activeElement.getBoundingClientRect();
      const list = document.getElementById('reading-list').getBoundingClientRect();
      return row.top >= list.top && row.bottom <= list.bottom + 1;
    """
    assert opened.execute_script(inside)
    press(Keys.ENTER)
    assert opened.execute_script("return location.hash") == "#viewer-1"
    assert opened.find_elements("id", "viewer-1")


def test_paper_gets_the_first_rows(opened: Any) -> None:
    opened.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert len(rows_of(opened)) == MOST_PLAIN
    opened.execute_script("dispatchEvent(new Event('afterprint'))")
    assert len(rows_of(opened)) < 40


def test_a_phone_shows_cards(opened: Any) -> None:
    size = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    opened.refresh()
    assert opened.execute_script("return document.documentElement.scrollWidth") <= 390
    measure = """
      const rows = [...document.querySelectorAll('#reading-table tbody tr:not(.space)')];
      return rows.map((row) => Math.round(row.getBoundingClientRect().height));
    """
    heights = set(opened.execute_script(measure))
    for wanted in ("onerror", "upside"):  # a long name, a reason
        search = opened.find_element("id", "reading-search")
        search.clear()
        search.send_keys(wanted)
        heights |= set(opened.execute_script(measure))
        assert len(shown(opened)) == 1
    assert len(heights) == 1
