from .case_run import CaseRun as CaseRun
from .case_run import Gathered as Gathered
from .viewed import viewer_volumes as viewer_volumes
