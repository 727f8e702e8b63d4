from .engines import AEFlowTrainer as AEFlowTrainer
from .engines import LikelihoodEvaluator as LikelihoodEvaluator
from .network import make_network as make_network
from .pretraining import PretrainTrainer as PretrainTrainer
