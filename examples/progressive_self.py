"""A student without a teacher: its targets are refined, epoch by epoch, with its own predictions of the epoch before.

    python examples/progressive_self.py --last-weight 0.8

Progressive self-distillation (Kim et al. 2021, arXiv:2006.12000). `--teacher` only says where the student's first
weights and its labels come from.

The algorithm:

    for epoch e = 1, ..., E:
        a = last_weight * e / E
        the student minimises CE((1 - a) * label + a * what it said of the example in epoch e - 1)
"""

from multilabel_distilbert import compute_metrics, load, parser, settings

from hf_distill import DistillationConfig, schemes, students


def main(arguments=None):
    command_line = parser(__doc__)
    command_line.add_argument("--last-weight", type=float, default=0.8, help="of the past predictions at the end")
    options = command_line.parse_args(arguments)
    teacher, tokenizer, dataset = load(options)
    plan = schemes.Plan(
        student=students.from_teacher(teacher, architecture="distilbert", layers=options.layers),
        args=DistillationConfig(**settings(options)),
        train_dataset=dataset["train"],
        eval_dataset=dataset["validation"],
        processing_class=tokenizer,
        compute_metrics=compute_metrics,
    )
    schemes.progressive_self(plan, options.last_weight)
    print(f'Load it: AutoModelForSequenceClassification.from_pretrained("{options.output}")')


if __name__ == "__main__":
    main()
