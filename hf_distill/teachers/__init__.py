"""Who teaches. Every teacher answers `observe(batch)` with what is known about the batch."""

from hf_distill.teachers.adapter_off import AdapterOffTeacher
from hf_distill.teachers.base import Teacher
from hf_distill.teachers.cached import CachedTeacher
from hf_distill.teachers.callable import CallableTeacher
from hf_distill.teachers.ema import EMATeacher
from hf_distill.teachers.ensemble import EnsembleTeacher
from hf_distill.teachers.model import ModelTeacher, load
from hf_distill.teachers.nobody import Nobody
from hf_distill.teachers.noisy import NoisyTeacher
from hf_distill.teachers.other_view import PREFIX, OtherView, PairedCollator, add_view, view_of
from hf_distill.teachers.past_self import PastSelf
from hf_distill.teachers.peer import PeerTeacher
from hf_distill.teachers.permuted import PermutedTeacher
from hf_distill.teachers.quantized import quantize
from hf_distill.teachers.selective import SelectiveTeacher
from hf_distill.teachers.specialist import SpecialistTeacher
from hf_distill.teachers.swapped_views import SwappedViews
from hf_distill.teachers.wrapper import Wrapper

__all__ = [
    "PREFIX",
    "AdapterOffTeacher",
    "CachedTeacher",
    "CallableTeacher",
    "EMATeacher",
    "EnsembleTeacher",
    "ModelTeacher",
    "Nobody",
    "NoisyTeacher",
    "OtherView",
    "PairedCollator",
    "PastSelf",
    "PeerTeacher",
    "PermutedTeacher",
    "SelectiveTeacher",
    "SpecialistTeacher",
    "SwappedViews",
    "Teacher",
    "Wrapper",
    "add_view",
    "load",
    "quantize",
    "view_of",
]
