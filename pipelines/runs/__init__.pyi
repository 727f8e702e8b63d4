from .calibrating import Calibrating as Calibrating
from .comparing import Comparison as Comparison
from .evaluation import Evaluation as Evaluation
from .inference import Inference as Inference
from .record import RunRecord as RunRecord
from .training import PLAN_NAME as PLAN_NAME
from .training import Training as Training
