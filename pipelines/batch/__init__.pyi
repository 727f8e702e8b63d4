from .case_run import CaseRun as CaseRun
from .case_run import Gathered as Gathered
from .results import case_rows as case_rows
from .results import load_result as load_result
from .viewed import viewer_volumes as viewer_volumes
