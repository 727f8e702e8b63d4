"""``report.html``, the page that every run ends with."""

from pipelines.report.content import ReportContent, ViewerVolume
from pipelines.report.page import write_report

__all__ = ["ReportContent", "ViewerVolume", "write_report"]
