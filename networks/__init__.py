"""The networks, the methods and their scores: tensors in, tensors out."""

from .aeflow import HEAD_STRIDES, AEFlow, AEFlowConfig, AEFlowOutput, build_aeflow
from .calibration import Calibration
from .decoder import Decoder
from .detectors import DETECTORS, Batches, Detector, Evidence, Inputs, Part, Stage, part_column
from .encoder import ENCODER_STRIDES, ENCODERS, Encoder
from .flow import (
    ActNorm,
    AffineCoupling,
    ChannelPermutation,
    FlowStep,
    NormalizingFlow,
    standard_normal_log_prob,
)
from .fusion import Fusion, PaperFusion, WeightedFusion, make_fusion
from .head import DetectionHead
from .loss import AEFlowLoss, LossTerms, bits_per_dimension, likelihoods
from .scales import SCALES, LogScale, clamped_exp_log_scale, softplus_log_scale
from .scorer import AnomalyScorer, ImageScores
from .subnets import SUBNETS, SubnetFactory, conv_subnet, resnet_subnet

__all__ = [
    "DETECTORS",
    "ENCODERS",
    "ENCODER_STRIDES",
    "HEAD_STRIDES",
    "SCALES",
    "SUBNETS",
    "AEFlow",
    "AEFlowConfig",
    "AEFlowLoss",
    "AEFlowOutput",
    "ActNorm",
    "AffineCoupling",
    "AnomalyScorer",
    "Batches",
    "Calibration",
    "ChannelPermutation",
    "Decoder",
    "DetectionHead",
    "Detector",
    "Encoder",
    "Evidence",
    "FlowStep",
    "Fusion",
    "ImageScores",
    "Inputs",
    "LogScale",
    "LossTerms",
    "NormalizingFlow",
    "PaperFusion",
    "Part",
    "Stage",
    "SubnetFactory",
    "WeightedFusion",
    "bits_per_dimension",
    "build_aeflow",
    "clamped_exp_log_scale",
    "conv_subnet",
    "likelihoods",
    "make_fusion",
    "part_column",
    "resnet_subnet",
    "softplus_log_scale",
    "standard_normal_log_prob",
]
