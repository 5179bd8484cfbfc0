"""TextBrewer 0.2.1.post1, as its examples do: `GeneralDistiller`, an adaptor, a loader of dicts, torch's optimizer.

It has the softmax's cross entropy and squared error of logits; the loss of several labels is registered in the way
that it offers, `register_new`. Its examples pad every row to one length; here a batch is padded to its longest row,
as for everybody. With the option "cache" it is `BasicDistiller(is_caching_logits=True)`, which its documentation
offers for the same work: batches are made once, and their order is shuffled.
"""

from textbrewer import BasicDistiller, DistillationConfig, GeneralDistiller, TrainingConfig
from textbrewer.presets import register_new
from work import Batch, Work


def train(work: Work) -> None:
    register_new("kd_loss", "soft", work.soft_loss)
    cached = "cache" in work.options

    def adaptor(batch: Batch, outputs) -> dict:
        return {"logits": outputs.logits, "losses": outputs.loss}

    distiller = (BasicDistiller if cached else GeneralDistiller)(
        TrainingConfig(device="cpu", output_dir=str(work.output), ckpt_epoch_frequency=work.epochs),
        DistillationConfig(
            temperature=work.temperature,
            kd_loss_type="soft",
            kd_loss_weight=1 - work.task_weight,
            hard_label_weight=work.task_weight,
            is_caching_logits=cached,
        ),
        work.teacher,
        work.student,
        adaptor,
        adaptor,
    )
    make, arguments = work.schedule()
    with distiller:
        distiller.train(
            work.optimizer(),
            work.loader(),
            num_epochs=work.epochs,
            scheduler_class=make,
            scheduler_args=arguments,
            max_grad_norm=1.0,
        )
