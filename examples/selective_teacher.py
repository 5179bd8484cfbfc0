"""The base example, and nothing is learned from what the teacher gets wrong or is unsure of.

    python examples/selective_teacher.py --wrong 0.0 --min-confidence 0.7

Label by label, since a message has several. A recipe says
`teacher: {model: ..., kind: {name: SelectiveTeacher, wrong: 0.0, min_confidence: 0.7}}`.
"""

from multilabel_distilbert import compute_metrics, load, parser, settings, show

from hf_distill import DistillationConfig, DistillationTrainer, losses, students, teachers


def main(arguments=None):
    command_line = parser(__doc__)
    command_line.add_argument("--wrong", type=float, default=0.0, help="what a wrong answer counts, 1 as much as any")
    command_line.add_argument("--min-confidence", type=float, default=0.7, help="surer answers count in full")
    options = command_line.parse_args(arguments)
    teacher, tokenizer, dataset = load(options)
    student = students.from_teacher(teacher, architecture="distilbert", layers=options.layers)
    trainer = DistillationTrainer(
        model=student,
        teacher=teachers.SelectiveTeacher(teacher, options.wrong, min_confidence=options.min_confidence),
        losses=[
            losses.TaskLoss(weight=0.5),  # of all labels
            losses.SoftTargets(temperature=2.0, weight=0.5),
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
