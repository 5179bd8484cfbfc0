"""The base example in rounds: one block goes, what is left is distilled, until there are as many as were asked for.

    python examples/iterated.py --drop 1

The table at the end says how good the model of every round is. To compare, `--drop 3` takes them out at once; give it
three times the `--epochs`, so that it is trained for as long.

The algorithm:

    model = a copy of the teacher
    while it has more blocks than the student is to have:
        take `--drop` of its blocks out, and let what is left learn from the teacher
"""

from multilabel_distilbert import compute_metrics, load, parser, settings

from hf_distill import DistillationConfig, losses, schemes, students


def main(arguments=None):
    command_line = parser(__doc__)
    command_line.add_argument("--drop", type=int, default=1, help="blocks that go in a round")
    options = command_line.parse_args(arguments)
    teacher, tokenizer, dataset = load(options)
    plan = schemes.Plan(
        student=students.from_teacher(teacher, architecture="distilbert", layers=options.layers),
        teacher=teacher,
        losses=[
            losses.TaskLoss(weight=0.5),
            losses.SoftTargets(temperature=2.0, weight=0.5),
            losses.HiddenMSE("uniform", weight=0.1),  # no layers by number: there are fewer in every round
        ],
        args=DistillationConfig(**settings(options)),
        train_dataset=dataset["train"],
        eval_dataset=dataset["validation"],
        processing_class=tokenizer,
        compute_metrics=compute_metrics,
    )
    schemes.iterated(plan, drop=options.drop)
    print(f'Load it: AutoModelForSequenceClassification.from_pretrained("{options.output}")')


if __name__ == "__main__":
    main()
