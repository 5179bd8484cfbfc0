"""The base example, and two teachers: the student learns the mean of their answers, and from inside of each.

    python examples/ensemble_teacher.py

The second teacher is made here: some blocks of the first, trained on the labels alone.
"""

from multilabel_distilbert import compute_metrics, load, parser, settings, show

from hf_distill import DistillationConfig, DistillationTrainer, losses, students, teachers


def main(arguments=None):
    command_line = parser(__doc__)
    command_line.add_argument("--mean", choices=["logits", "probabilities"], default="probabilities")
    options = command_line.parse_args(arguments)
    teacher, tokenizer, dataset = load(options)
    second = second_teacher(teacher, tokenizer, dataset, options)
    student = students.from_teacher(teacher, architecture="distilbert", layers=options.layers)
    trainer = DistillationTrainer(
        model=student,
        teacher=teachers.EnsembleTeacher([teacher, second], mean=options.mean, weights="confidence"),
        losses=[
            losses.TaskLoss(weight=0.5),
            losses.SoftTargets(temperature=2.0, weight=0.5),  # the ensemble's answer
            losses.HiddenMSE(dict(enumerate(options.layers)), weight=0.1).of(0),  # inside the first teacher
            losses.RKDDistance().of(1),  # how the second one arranges the batch
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


def second_teacher(teacher, tokenizer, dataset, options):
    args = DistillationConfig(**{**settings(options), "output_dir": f"{options.output}_second_teacher"})
    second = students.keep_layers(teacher, options.layers)
    data = {"train_dataset": dataset["train"], "processing_class": tokenizer}
    DistillationTrainer(second, teachers.Nobody(), [losses.TaskLoss()], args, **data).train()
    return second.eval()


if __name__ == "__main__":
    main()
