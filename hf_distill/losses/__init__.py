"""The catalogue of losses, grouped by what they look at. Importing it imports torch and not transformers."""

from hf_distill.losses.attention_maps import AttentionKL, AttentionMSE, attention_kl, attention_mse
from hf_distill.losses.base import LayerLoss, Loss, match_layers
from hf_distill.losses.hidden_cosine import HiddenCosine, hidden_cosine
from hf_distill.losses.hidden_mse import HiddenMSE, hidden_mse
from hf_distill.losses.projection import ProjectedLayerLoss
from hf_distill.losses.rkd import RKDAngle, RKDDistance, rkd_angle, rkd_distance
from hf_distill.losses.soft_targets import SoftTargets, binary_kl_divergence, kl_divergence, standardize
from hf_distill.losses.task import TaskLoss

CATALOGUE: dict[str, tuple[type[Loss], ...]] = {
    "labels": (TaskLoss,),
    "logits": (SoftTargets,),
    "hidden states": (HiddenMSE, HiddenCosine),
    "attention maps": (AttentionKL, AttentionMSE),
    "relations between examples": (RKDDistance, RKDAngle),
}

__all__ = [
    "CATALOGUE",
    "AttentionKL",
    "AttentionMSE",
    "HiddenCosine",
    "HiddenMSE",
    "LayerLoss",
    "Loss",
    "ProjectedLayerLoss",
    "RKDAngle",
    "RKDDistance",
    "SoftTargets",
    "TaskLoss",
    "attention_kl",
    "attention_mse",
    "binary_kl_divergence",
    "hidden_cosine",
    "hidden_mse",
    "kl_divergence",
    "match_layers",
    "rkd_angle",
    "rkd_distance",
    "standardize",
]
