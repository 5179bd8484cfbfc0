"""No teacher: the student learns alone, in the same trainer, from the same batches."""

from hf_distill.batch import Batch
from hf_distill.signals import Signals
from hf_distill.teachers.base import Teacher


class Nobody(Teacher):
    """Says nothing. With `losses=[TaskLoss()]` it is the baseline that a distilled student is compared with."""

    def observe(self, batch: Batch) -> Signals:
        """See `Teacher.observe`: an empty answer."""
        return {}
