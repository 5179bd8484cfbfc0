"""Teacher and student in one run: the teacher learns from the labels, the student from the teacher as it grows.

    python examples/online.py --teacher-learning-rate 5e-5

Here the teacher begins as it was before it was fine-tuned: its head is drawn anew. The student starts with its layers.

The algorithm:

    for each batch, when both have predicted:
        one step of the teacher on CE(labels, teacher)
        one step of the student on CE(labels, student) + KL(teacher || student)
"""

from multilabel_distilbert import compute_metrics, load, parser, settings

from hf_distill import DistillationConfig, losses, schemes, students


def main(arguments=None):
    command_line = parser(__doc__)
    command_line.add_argument("--teacher-learning-rate", type=float, default=5e-5)
    command_line.add_argument("--both-ways", action="store_true", help="the teacher learns from the student too")
    options = command_line.parse_args(arguments)
    teacher, tokenizer, dataset = load(options)
    student = students.from_teacher(teacher, architecture="distilbert", layers=options.layers)
    teacher.classifier.reset_parameters()
    plan = schemes.Plan(
        student=student,
        teacher=teacher,
        losses=[losses.TaskLoss(weight=0.5), losses.SoftTargets(temperature=2.0, weight=0.5)],
        args=DistillationConfig(**settings(options)),
        train_dataset=dataset["train"],
        eval_dataset=dataset["validation"],
        processing_class=tokenizer,
        compute_metrics=compute_metrics,
    )
    schemes.online(plan, both_ways=options.both_ways, learning_rate=options.teacher_learning_rate)
    print(f'Load it: AutoModelForSequenceClassification.from_pretrained("{options.output}")')
    print(f'The teacher: AutoModelForSequenceClassification.from_pretrained("{options.output}/teacher")')


if __name__ == "__main__":
    main()
