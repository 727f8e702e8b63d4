from .batches import NormalBatches as NormalBatches
from .batches import as_inputs as as_inputs
from .network import make_detector as make_detector
from .network import pretraining_wanted as pretraining_wanted
from .resume import Checkpoints as Checkpoints
from .sequence import StagedTraining as StagedTraining
from .stages import StageEvaluator as StageEvaluator
from .stages import StageTrainer as StageTrainer
