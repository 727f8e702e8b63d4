"""The networks of AE-Flow and their losses: tensors in, tensors out."""

from .aeflow import HEAD_STRIDES, AEFlow, AEFlowOutput, build_aeflow
from .decoder import Decoder
from .encoder import ENCODER_STRIDES, ENCODERS, Encoder
from .flow import (
    ActNorm,
    AffineCoupling,
    ChannelPermutation,
    FlowStep,
    NormalizingFlow,
    standard_normal_log_prob,
)
from .head import DetectionHead
from .loss import AEFlowLoss, LossTerms, bits_per_dimension, likelihoods
from .scales import SCALES, LogScale, clamped_exp_log_scale, softplus_log_scale
from .scorer import AnomalyScorer, ImageScores, Parts
from .subnets import SUBNETS, SubnetFactory, conv_subnet, resnet_subnet

__all__ = [
    "ENCODERS",
    "ENCODER_STRIDES",
    "HEAD_STRIDES",
    "SCALES",
    "SUBNETS",
    "AEFlow",
    "AEFlowLoss",
    "AEFlowOutput",
    "ActNorm",
    "AffineCoupling",
    "AnomalyScorer",
    "ChannelPermutation",
    "Decoder",
    "DetectionHead",
    "Encoder",
    "FlowStep",
    "ImageScores",
    "LogScale",
    "LossTerms",
    "NormalizingFlow",
    "Parts",
    "SubnetFactory",
    "bits_per_dimension",
    "build_aeflow",
    "clamped_exp_log_scale",
    "conv_subnet",
    "likelihoods",
    "resnet_subnet",
    "softplus_log_scale",
    "standard_normal_log_prob",
]
