"""The base example in two stages: a hint from the middle of the teacher first, all losses afterwards.

    python examples/hints.py --share 0.25

Romero et al. 2014 (FitNets), arXiv:1412.6550. The first stage leaves the blocks above the hint and the head as they
are, so that the quality that the table tells of it is that of an untrained head.

The algorithm:

    1. the student up to its guided block (and a regressor r, if widths differ) minimises |hint - r(guided block)|^2
    2. the whole student, from there, minimises CE(labels, student) + KL(teacher || student)
"""

from multilabel_distilbert import compute_metrics, load, parser, settings

from hf_distill import DistillationConfig, losses, schemes, students


def main(arguments=None):
    command_line = parser(__doc__)
    command_line.add_argument("--share", type=float, default=0.25, help="of the steps, for the hint")
    options = command_line.parse_args(arguments)
    teacher, tokenizer, dataset = load(options)
    plan = schemes.Plan(
        student=students.from_teacher(teacher, architecture="distilbert", layers=options.layers),
        teacher=teacher,
        losses=[losses.TaskLoss(weight=0.5), losses.SoftTargets(temperature=2.0, weight=0.5)],
        args=DistillationConfig(**settings(options)),
        train_dataset=dataset["train"],
        eval_dataset=dataset["validation"],
        processing_class=tokenizer,
        compute_metrics=compute_metrics,
    )
    schemes.hints(plan, share=options.share)
    print(f'Load it: AutoModelForSequenceClassification.from_pretrained("{options.output}")')


if __name__ == "__main__":
    main()
