from .content import ReportContent as ReportContent
from .content import ViewerVolume as ViewerVolume
from .page import write_report as write_report
