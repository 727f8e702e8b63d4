from .engines import AEFlowTrainer as AEFlowTrainer
from .engines import LikelihoodEvaluator as LikelihoodEvaluator
from .network import make_network as make_network
from .pretraining import PretrainEvaluator as PretrainEvaluator
from .pretraining import PretrainTrainer as PretrainTrainer
from .pretraining import pretrain_optimizer as pretrain_optimizer
from .pretraining import pretraining_wanted as pretraining_wanted
