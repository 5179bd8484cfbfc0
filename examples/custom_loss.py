"""The base example, and a loss of one's own: the formula on top, under it the class that says what it looks at.

    python examples/custom_loss.py

A recipe names it by its dotted path, seen from the recipe's own folder or the one you are in:

    losses:
      - {name: custom_loss.Brier, temperature: 2.0, weight: 0.5}

    cd examples && hf-distill train my_recipe.yaml --allow-custom-code
"""

from multilabel_distilbert import compute_metrics, load, parser, settings, show

from hf_distill import DistillationConfig, DistillationTrainer, losses, students
from hf_distill.signals import LOGITS
from hf_distill.tasks import Task


def brier(student, teacher, temperature=1.0):
    """Squared difference of every label's probability, summed over labels: (..., labels) twice in, (...) out.

    Bounded, where a KL is not: labels that the teacher is sure and wrong about pull less.
    """
    return ((student / temperature).sigmoid() - (teacher / temperature).sigmoid()).square().sum(-1)


class Brier(losses.Loss):
    """The constructor stores its arguments; log, card and recipe know the loss by them and by its class name."""

    def __init__(self, temperature: float = 1.0, weight: float = 1.0) -> None:
        super().__init__(weight)
        self.temperature = temperature

    def setup(self, student, teacher, task):  # optional: what cannot work is refused before step 1
        if task is not Task.MULTI_LABEL:
            raise ValueError(f"Brier compares labels one by one, and the task is {task}. Take SoftTargets.")

    def pairs(self):
        return [(LOGITS, LOGITS)]

    def compare(self, student, teacher, batch):  # `batch.mean` divides: over accumulation and processes too
        return batch.mean(brier(student, teacher, self.temperature), over="examples")


def main(arguments=None):
    options = parser(__doc__).parse_args(arguments)
    teacher, tokenizer, dataset = load(options)
    student = students.from_teacher(teacher, architecture="distilbert", layers=options.layers)
    trainer = DistillationTrainer(
        model=student,
        teacher=teacher,
        losses=[
            losses.TaskLoss(weight=0.5),
            Brier(temperature=2.0, weight=0.5),
            losses.HiddenMSE(dict(enumerate(options.layers)), weight=0.1),
        ],
        args=DistillationConfig(**settings(options)),
        train_dataset=dataset["train"],
        eval_dataset=dataset["validation"],
        processing_class=tokenizer,
        compute_metrics=compute_metrics,
    )
    before = trainer.evaluate()
    trainer.train()
    show(before, trainer.evaluate())
    trainer.save_model()
    print(f'Load it: AutoModelForSequenceClassification.from_pretrained("{options.output}")')


if __name__ == "__main__":
    main()
