"""The base example, and the teacher asked once: its answers lie on disk for every epoch and every later run.

    python examples/cached_teacher.py
    python examples/cached_teacher.py --epochs 8               # the second run asks the teacher nothing

A recipe says `teacher: {model: ..., cache: out/answers}`; `hf-distill cache recipe.yaml --show` says what is in there.
"""

from multilabel_distilbert import compute_metrics, load, parser, settings, show

from hf_distill import DistillationConfig, DistillationTrainer, losses, students, teachers


def main(arguments=None):
    options = parser(__doc__).parse_args(arguments)
    teacher, tokenizer, dataset = load(options)
    student = students.from_teacher(teacher, architecture="distilbert", layers=options.layers)
    cached = teachers.CachedTeacher(f"{options.output}_answers", teacher)
    trainer = DistillationTrainer(
        model=student,
        teacher=cached,
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
    cached.fill(
        [dataset["train"], dataset["validation"]],
        trainer.data_collator,
        report=lambda done, of: print(f"the teacher answered {done:,} of {of:,}"),
    )
    before = trainer.evaluate()
    trainer.train()
    show(before, trainer.evaluate())
    trainer.save_model()
    print(f'Load it: AutoModelForSequenceClassification.from_pretrained("{options.output}")')


if __name__ == "__main__":
    main()
