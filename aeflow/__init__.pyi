from .predictor import Prediction as Prediction
from .predictor import Predictor as Predictor
from .run import Finished as Finished
from .run import calibrate as calibrate
from .run import evaluate as evaluate
from .run import predict as predict
from .run import train as train
