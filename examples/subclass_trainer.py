"""The base example, and one method of the trainer overridden: words are hidden from teacher and student alike.

    python examples/subclass_trainer.py --hide 0.1

The labels stay as they are, and the teacher says anew what it thinks of the changed text: a student then learns from
more texts than there are (the masking of Tang et al. 2019, arXiv:1903.12136, section 3.2).
"""

import torch
from multilabel_distilbert import compute_metrics, load, parser, settings, show

from hf_distill import DistillationConfig, DistillationTrainer, losses, students


class WordHidingTrainer(DistillationTrainer):
    """Hides each word piece of a training batch with probability `hide`; evaluation sees whole texts."""

    hide = 0.1

    def compute_loss(self, model, inputs, *args, **kwargs):
        if model.training:
            inputs = {**inputs, "input_ids": self.hide_words(inputs["input_ids"])}
        return super().compute_loss(model, inputs, *args, **kwargs)

    def hide_words(self, ids):
        tokenizer = self.processing_class
        special = torch.isin(ids, torch.tensor(tokenizer.all_special_ids, device=ids.device))
        hidden = (torch.rand(ids.shape, device=ids.device) < self.hide) & ~special
        return ids.masked_fill(hidden, tokenizer.mask_token_id)


def main(arguments=None):
    command_line = parser(__doc__)
    command_line.add_argument("--hide", type=float, default=0.1, help="share of the word pieces")
    options = command_line.parse_args(arguments)
    teacher, tokenizer, dataset = load(options)
    student = students.from_teacher(teacher, architecture="distilbert", layers=options.layers)
    trainer = WordHidingTrainer(
        model=student,
        teacher=teacher,
        losses=[
            losses.TaskLoss(weight=0.5),
            losses.SoftTargets(temperature=2.0, weight=0.5),
            losses.HiddenMSE(dict(enumerate(options.layers)), weight=0.1),
        ],
        args=DistillationConfig(**settings(options)),
        train_dataset=dataset["train"],
        eval_dataset=dataset["validation"],
        processing_class=tokenizer,
        compute_metrics=compute_metrics,
    )
    trainer.hide = options.hide
    before = trainer.evaluate()
    trainer.train()
    show(before, trainer.evaluate())
    trainer.save_model()
    print(f'Load it: AutoModelForSequenceClassification.from_pretrained("{options.output}")')


if __name__ == "__main__":
    main()
