"""The page: which sections it has, what it escapes and that it needs nothing else."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from pipelines.metrics.pixel import PixelHistogram
from pipelines.metrics.summary import summarize
from pipelines.metrics.verdict import verdict
from pipelines.report import ReportContent, page, write_report

HOSTILE = "<script>alert('case')</script>"


class Read(HTMLParser):
    """Collects what the tests ask about."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def sections(self) -> list[str]:
        return [a["aria-labelledby"] for a in self.all("section")]

    @property
    def levels(self) -> list[int]:
        return [int(tag[1]) for tag, _ in self.tags if re.fullmatch("h[1-6]", tag)]


def bare(content: ReportContent) -> ReportContent:
    rows = [replace(row, label=None) for row in content.rows]
    return replace(
        content, title="Inference", rows=rows, metrics=None, history=(), regions=(), examples=(),
        stability=(), volumes=(), failures=(), notes=(), about={}, verdict=None,
    )  # fmt: skip


@pytest.fixture(scope="module")
def text(report_folder: Path) -> str:
    return (report_folder / "report.html").read_text()


def test_every_section_is_there(text: str, report_folder: Path) -> None:
    sections = (
        "notes figures reading histogram roc calibration stability curves regions panels volumes "
        "failures about"
    )
    assert Read(text).sections == [*sections.split(), "glossary"]
    drawn = {path.name for path in report_folder.iterdir()}
    names = ("roc", "calibration", "scores", "curves", "regions", "examples")
    pictures = {f"{name}.png" for name in names}
    assert drawn == pictures | {"report.html"}
    for word in ("For research only", "AUROC", "95 %", "baseline intensity"):
        assert word in text


def test_what_is_not_known_is_left_out(full_content: ReportContent, tmp_path: Path) -> None:
    text = write_report(tmp_path, bare(full_content)).read_text()
    read = Read(text)
    assert read.sections == ["reading", "histogram", "calibration", "glossary"]
    assert "AUROC" not in text


def test_nothing_scored_still_makes_a_page(full_content: ReportContent, tmp_path: Path) -> None:
    empty = replace(bare(full_content), rows=[], quantiles=np.array([]))
    text = write_report(tmp_path, empty).read_text()
    assert Read(text).sections == ["calibration", "glossary"] and "<script" not in text
    calibrated = write_report(tmp_path, replace(empty, held_out=[0.1, 2.0])).read_text()
    assert Read(calibrated).sections == ["histogram", "calibration", "glossary"]


def test_one_class_alone_has_no_curves(full_content: ReportContent, tmp_path: Path) -> None:
    rows = [row for row in full_content.rows if row.label == 1]
    sections = Read(write_report(tmp_path, replace(bare(full_content), rows=rows)).read_text())
    assert "roc" not in sections.sections


def test_a_number_of_few_patients_is_marked(full_content: ReportContent, tmp_path: Path) -> None:
    rows = [replace(row, patient=f"p{n % 4}") for n, row in enumerate(full_content.rows)]
    metrics = summarize(
        rows, PixelHistogram(), {}, threshold=1.5, pixel_threshold=2.0, volumetric=True
    )
    content = replace(full_content, rows=rows, metrics=metrics, verdict=verdict(metrics))
    text = write_report(tmp_path, content).read_text()
    told = f"<strong>{metrics['image_auroc']['value']:.3f}</strong> <span>2 patients: no figure"
    assert told in text and "(2 patients: no figure).\n" in text
    assert not re.search(r"\[\d\.\d{3}, \d", text) and "95 % bands over" not in text


def test_normals_alone_have_a_page(full_content: ReportContent, tmp_path: Path) -> None:
    rows = [row for row in full_content.rows if row.label == 0]
    metrics = summarize(
        rows, PixelHistogram(), {}, threshold=1.5, pixel_threshold=2.0, volumetric=True
    )
    shown = replace(full_content.examples[0], kind="held-out normal")
    tried = [{"kind": "haze", "size": "small", "n": 9, "flagged": 0.5, "auroc": 0.75}]
    tried += [{"kind": "tissue", "size": "small", "n": 0, "flagged": None, "auroc": None}]
    metrics["synthetic_detection"] = {
        "images": 9, "patients": 3, "flagged_without": 0.1, "diameters": {"small": [2, 4]},
        "practised": ["haze"], "rows": tried, "caveat": "Nothing sure.",
    }  # fmt: skip
    content = replace(
        full_content, rows=rows, metrics=metrics, verdict=verdict(metrics), examples=[shown],
        held_out=[0.1, 0.2, 2.0],
    )  # fmt: skip
    text = write_report(tmp_path, content).read_text()
    sections = Read(text).sections
    assert sections.index("missing") < sections.index("figures") < sections.index("synthetic")
    assert "anomalous test images of 5 patients at least; there are none" in text
    assert "<td>50 % <small>AUROC 0.75, n 9</small></td>" in text and "none shows" in text
    assert "10 % of them are (3 patients: no figure)" in text and "Nothing sure." in text
    assert "3 held-out normal images, median score 0.20" in text
    assert "Held-out normal images of the calibration, the highest scores" in text
    assert "ranking by" not in text and "trivial scores</h2>" not in text
    assert '<th scope="col">Dice</th>' not in text  # of no patient


def test_whole_volumes_do_not_enter_the_curves(full_content: ReportContent) -> None:
    judged = page.judged_images(full_content.rows)
    assert len(judged.scores) == len(full_content.rows) - 2


def test_the_verdict_comes_first(text: str, full_content: ReportContent, tmp_path: Path) -> None:
    judged = full_content.verdict
    assert judged is not None and judged.text in text
    assert text.index(judged.text) < text.index("Read this first")
    assert '<p class="verdict' not in write_report(tmp_path, bare(full_content)).read_text()


def test_names_are_escaped(text: str) -> None:
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text
    data = "application/json"
    types = [a.get("type") for a in Read(text).all("script")]
    assert types == [data, None, data, data, None]


def test_patients_stay_out(text: str) -> None:
    assert "secret" not in text


def test_nothing_is_fetched(text: str) -> None:
    for tag, attributes in Read(text).tags:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            target = attributes.get(name)
            assert target is None or target.startswith(("data:", "#")), (tag, target)
    # Base64 could hold these letters by chance.
    rest = re.sub(r"[A-Za-z0-9+/=]{200,}", "", text)
    assert "http:" not in rest and "https:" not in rest and "url(" not in rest
    assert "default-src 'none'" in text


def test_it_can_be_read_without_seeing_it(text: str) -> None:
    read = Read(text)
    assert all(len(picture["alt"]) > 20 for picture in read.all("img"))
    assert all(head["scope"] in ("col", "row") for head in read.all("th"))
    assert read.levels[0] == 1 and read.levels.count(1) == 1
    assert max(np.diff(read.levels)) <= 1
    identifiers = [a["id"] for _, a in read.tags if "id" in a]
    assert len(identifiers) == len(set(identifiers))
    linked = {a["href"][1:] for a in read.all("a")}
    named = {a["aria-labelledby"] for _, a in read.tags if "aria-labelledby" in a}
    assert linked | named <= set(identifiers)


def test_more_volumes_than_fit_are_counted(
    full_content: ReportContent, tmp_path: Path, volume_of
) -> None:
    volumes = [volume_of(f"volume{n}") for n in range(6)]
    text = write_report(tmp_path, replace(bare(full_content), volumes=volumes)).read_text()
    assert "The first 4 of 6 volumes" in re.sub(r"\s+", " ", text)
    assert "volume3" in text and "volume4" not in text


def test_a_failure_leaves_the_old_page(
    full_content: ReportContent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_report(tmp_path, bare(full_content))
    before = path.read_bytes()

    def broken(*_: object, **__: object) -> int:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_text", broken)
    with pytest.raises(OSError, match="disk full"):
        write_report(tmp_path, replace(bare(full_content), title="Other"))
    assert path.read_bytes() == before
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
