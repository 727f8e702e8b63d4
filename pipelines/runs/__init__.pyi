from .calibrating import Calibrating as Calibrating
from .evaluation import Evaluation as Evaluation
from .inference import Inference as Inference
from .training import PLAN_NAME as PLAN_NAME
from .training import Training as Training
