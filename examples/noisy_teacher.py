"""The base example, and what the teacher says of some messages is disturbed, as a regulariser.

    python examples/noisy_teacher.py --sigma 0.3 --share 0.5

Sau and Balasubramanian 2016, arXiv:1610.09650. A recipe says
`teacher: {model: ..., kind: {name: NoisyTeacher, sigma: 0.3, share: 0.5}}`.
"""

from multilabel_distilbert import compute_metrics, load, parser, settings, show

from hf_distill import DistillationConfig, DistillationTrainer, losses, students, teachers


def main(arguments=None):
    command_line = parser(__doc__)
    command_line.add_argument("--sigma", type=float, default=0.3, help="standard deviation of the noise")
    command_line.add_argument("--share", type=float, default=0.5, help="probability that an example is disturbed")
    options = command_line.parse_args(arguments)
    teacher, tokenizer, dataset = load(options)
    student = students.from_teacher(teacher, architecture="distilbert", layers=options.layers)
    trainer = DistillationTrainer(
        model=student,
        teacher=teachers.NoisyTeacher(teacher, sigma=options.sigma, share=options.share),
        losses=[
            losses.TaskLoss(weight=0.5),
            losses.SoftTargets(temperature=2.0, weight=0.5),
            losses.HiddenMSE(dict(enumerate(options.layers)), weight=0.1),  # of the undisturbed teacher
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
