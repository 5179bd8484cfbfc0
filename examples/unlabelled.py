"""The base example without labels: of the messages nothing is read but their text, the teacher says what it thinks.

    python examples/unlabelled.py --confidence 0.9 0.0       # two passes: the surest answers first, then all

With `--labelled 100` the labels of so many rows are read as well. A recipe says
`scheme: {name: unlabelled, confidence: [0.9, 0.0]}`.

The algorithm:

    for each pass, with its confidence c:
        the student minimises KL(teacher || student) over the labels of texts that the teacher is sure of by c
"""

from multilabel_distilbert import compute_metrics, load, parser, settings

from hf_distill import DistillationConfig, losses, schemes, students


def main(arguments=None):
    command_line = parser(__doc__)
    command_line.add_argument("--confidence", type=float, nargs="+", default=[0.9, 0.0], help="one a pass")
    command_line.add_argument("--labelled", type=int, default=0, help="rows whose labels are read")
    options = command_line.parse_args(arguments)
    teacher, tokenizer, dataset = load(options)
    rows, learned, labels = dataset["train"], [losses.SoftTargets(temperature=2.0)], "never"
    if options.labelled:
        known, others = rows.select(range(options.labelled)), rows.select(range(options.labelled, len(rows)))
        rows, learned, labels = schemes.combine(known, others), [losses.TaskLoss(), *learned], "where known"
    plan = schemes.Plan(
        students.from_teacher(teacher, architecture="distilbert", layers=options.layers),
        teacher,
        learned,
        DistillationConfig(**settings(options)),
        train_dataset=rows,
        eval_dataset=dataset["validation"],
        processing_class=tokenizer,
        compute_metrics=compute_metrics,
    )
    schemes.unlabelled(plan, confidence=options.confidence, labels=labels)
    print(f'Load it: AutoModelForSequenceClassification.from_pretrained("{options.output}")')


if __name__ == "__main__":
    main()
