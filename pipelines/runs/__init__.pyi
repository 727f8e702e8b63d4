from .calibrating import Calibrating as Calibrating
from .evaluation import Evaluation as Evaluation
from .inference import Inference as Inference
from .training import Training as Training
