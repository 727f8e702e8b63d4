from .comparison import ComparisonContent as ComparisonContent
from .comparison import write_comparison_page as write_comparison_page
from .content import ReportContent as ReportContent
from .content import ViewerVolume as ViewerVolume
from .page import write_report as write_report
from .words import words_for as words_for
