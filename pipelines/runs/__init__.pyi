from .evaluation import Evaluation as Evaluation
from .inference import Inference as Inference
from .session import EvaluationSession as EvaluationSession
from .session import about_model as about_model
from .training import TrainingSession as TrainingSession
