"""The base example without a teacher of its own: the student is taught by the average of its own weights.

    python examples/mean_teacher.py --decay 0.99

The average of many steps is steadier than the last one (Tarvainen and Valpola 2017, arXiv:1703.01780). `--teacher`
only says where the student's first weights and its labels come from.
"""

from multilabel_distilbert import compute_metrics, load, parser, settings, show

from hf_distill import DistillationConfig, DistillationTrainer, losses, students, teachers


def main(arguments=None):
    command_line = parser(__doc__)
    command_line.add_argument("--decay", type=float, default=0.99, help="what is kept of the average in each step")
    options = command_line.parse_args(arguments)
    teacher, tokenizer, dataset = load(options)
    student = students.from_teacher(teacher, architecture="distilbert", layers=options.layers)
    trainer = DistillationTrainer(
        model=student,
        teacher=teachers.EMATeacher(student, decay=options.decay),
        losses=[losses.TaskLoss(), losses.SoftTargets(temperature=1.0)],
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
