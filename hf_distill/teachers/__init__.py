"""Who teaches. Every teacher answers `observe(batch)` with what is known about the batch."""

from hf_distill.teachers.base import Teacher
from hf_distill.teachers.cached import CachedTeacher
from hf_distill.teachers.ema import EMATeacher
from hf_distill.teachers.model import ModelTeacher, load
from hf_distill.teachers.nobody import Nobody
from hf_distill.teachers.past_self import PastSelf
from hf_distill.teachers.peer import PeerTeacher
from hf_distill.teachers.quantized import quantize
from hf_distill.teachers.swapped_views import SwappedViews

__all__ = [
    "CachedTeacher",
    "EMATeacher",
    "ModelTeacher",
    "Nobody",
    "PastSelf",
    "PeerTeacher",
    "SwappedViews",
    "Teacher",
    "load",
    "quantize",
]
