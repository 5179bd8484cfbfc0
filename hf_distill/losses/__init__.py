"""The catalogue of losses, grouped by what they look at. Importing it imports torch and not transformers."""

from hf_distill.losses.attention_maps import AttentionKL, AttentionMSE, attention_kl, attention_mse
from hf_distill.losses.attention_transfer import AttentionTransfer, attention_transfer
from hf_distill.losses.base import LayerLoss, Loss, PositionLoss, match_layers
from hf_distill.losses.boundary import BoundaryTargets, boundary_divergence
from hf_distill.losses.contrastive import ContrastiveRepresentation, contrastive_representation
from hf_distill.losses.correlation import CorrelationCongruence, correlation_congruence
from hf_distill.losses.cwtm import CWTM, cwtm
from hf_distill.losses.dist import DIST, binary_dist, dist
from hf_distill.losses.divergences import (
    GeneralizedJSD,
    ReverseKL,
    SkewKL,
    TotalVariation,
    generalized_jsd,
    reverse_kl,
    skew_kl,
    total_variation,
)
from hf_distill.losses.dkd import DecoupledKL, decoupled_kl
from hf_distill.losses.fsp import FSP, fsp
from hf_distill.losses.fused import head_and_divergence
from hf_distill.losses.hidden_cosine import HiddenCosine, hidden_cosine
from hf_distill.losses.hidden_mse import HiddenMSE, hidden_mse
from hf_distill.losses.label_embeddings import LabelEmbeddings, label_embeddings
from hf_distill.losses.logit_mse import LogitMSE, logit_mse
from hf_distill.losses.logits import LogitLoss
from hf_distill.losses.minilm import MiniLM
from hf_distill.losses.nkd import NormalizedKD, normalized_kd
from hf_distill.losses.nst import NST, nst
from hf_distill.losses.patient import Patient, patient
from hf_distill.losses.projection import ProjectedLayerLoss
from hf_distill.losses.relation import RelationLoss
from hf_distill.losses.relations_qkv import MiniLMv2, relation_kl
from hf_distill.losses.rkd import RKDAngle, RKDDistance, rkd_angle, rkd_distance
from hf_distill.losses.schedules import Schedule, cosine, linear, stairs, warmup
from hf_distill.losses.self_exits import SelfExits, self_exits
from hf_distill.losses.similarity import SimilarityPreserving, similarity_preserving
from hf_distill.losses.sobolev import Sobolev, gradient_match
from hf_distill.losses.soft_targets import SoftTargets, binary_kl_divergence, kl_divergence, standardize
from hf_distill.losses.sorted_logits import SortedLogits, sorted_logits
from hf_distill.losses.task import TaskLoss
from hf_distill.losses.triplet import RelativeSimilarity, relative_similarity

CATALOGUE: dict[str, tuple[type[Loss], ...]] = {
    "labels": (TaskLoss, CWTM),
    "logits": (
        SoftTargets,
        ReverseKL,
        GeneralizedJSD,
        SkewKL,
        TotalVariation,
        DecoupledKL,
        NormalizedKD,
        DIST,
        LogitMSE,
        SortedLogits,
    ),
    "label embeddings": (LabelEmbeddings,),
    "hidden states": (HiddenMSE, HiddenCosine, Patient, AttentionTransfer, FSP, NST),
    "attention maps": (AttentionKL, AttentionMSE),
    "relations between tokens": (MiniLM, MiniLMv2),
    "relations between examples": (
        RKDDistance,
        RKDAngle,
        SimilarityPreserving,
        CorrelationCongruence,
        RelativeSimilarity,
        ContrastiveRepresentation,
    ),
    "exits of the student": (SelfExits,),
    "derivatives": (Sobolev,),
    "boundary samples": (BoundaryTargets,),
}

__all__ = [
    "CATALOGUE",
    "CWTM",
    "DIST",
    "FSP",
    "NST",
    "AttentionKL",
    "AttentionMSE",
    "AttentionTransfer",
    "BoundaryTargets",
    "ContrastiveRepresentation",
    "CorrelationCongruence",
    "DecoupledKL",
    "GeneralizedJSD",
    "HiddenCosine",
    "HiddenMSE",
    "LabelEmbeddings",
    "LayerLoss",
    "LogitLoss",
    "LogitMSE",
    "Loss",
    "MiniLM",
    "MiniLMv2",
    "NormalizedKD",
    "Patient",
    "PositionLoss",
    "ProjectedLayerLoss",
    "RKDAngle",
    "RKDDistance",
    "RelationLoss",
    "RelativeSimilarity",
    "ReverseKL",
    "Schedule",
    "SelfExits",
    "SimilarityPreserving",
    "SkewKL",
    "Sobolev",
    "SoftTargets",
    "SortedLogits",
    "TaskLoss",
    "TotalVariation",
    "attention_kl",
    "attention_mse",
    "attention_transfer",
    "binary_dist",
    "binary_kl_divergence",
    "boundary_divergence",
    "contrastive_representation",
    "correlation_congruence",
    "cosine",
    "cwtm",
    "decoupled_kl",
    "dist",
    "fsp",
    "generalized_jsd",
    "gradient_match",
    "head_and_divergence",
    "hidden_cosine",
    "hidden_mse",
    "kl_divergence",
    "label_embeddings",
    "linear",
    "logit_mse",
    "match_layers",
    "normalized_kd",
    "nst",
    "patient",
    "relation_kl",
    "relative_similarity",
    "reverse_kl",
    "rkd_angle",
    "rkd_distance",
    "self_exits",
    "similarity_preserving",
    "skew_kl",
    "sorted_logits",
    "stairs",
    "standardize",
    "total_variation",
    "warmup",
]
