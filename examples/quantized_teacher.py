"""The base example, and the teacher multiplies in int8: cheaper to ask, and nearly the same answers.

    python examples/quantized_teacher.py

It is rounded after the student took its weights. A recipe says `teacher: {model: ..., quantize: int8}`. What
transformers itself loads quantised, on GPUs also in 4 bits, is a teacher as it is.
"""

from multilabel_distilbert import compute_metrics, load, parser, settings, show

from hf_distill import DistillationConfig, DistillationTrainer, losses, students, teachers


def main(arguments=None):
    options = parser(__doc__).parse_args(arguments)
    teacher, tokenizer, dataset = load(options)
    student = students.from_teacher(teacher, architecture="distilbert", layers=options.layers)
    trainer = DistillationTrainer(
        model=student,
        teacher=teachers.quantize(teacher),
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
    before = trainer.evaluate()
    trainer.train()
    show(before, trainer.evaluate())
    trainer.save_model()
    print(f'Load it: AutoModelForSequenceClassification.from_pretrained("{options.output}")')


if __name__ == "__main__":
    main()
