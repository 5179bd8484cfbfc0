"""A student without a teacher: it reads every text twice, with other words hidden, and agrees with itself.

    python examples/augmented_self.py --hide 0.1

Data-distortion guided self-distillation (Xu and Liu 2019), with words hidden where the paper distorts images.
`--teacher` only says where the student's first weights and its labels come from.

The algorithm:

    for each batch:
        one, other = two views of it, in each of which other words are hidden
        the student minimises CE(labels, one) + CE(labels, other), and KL(one || other) + KL(other || one)
"""

from multilabel_distilbert import compute_metrics, load, parser, settings

from hf_distill import DistillationConfig, schemes, students


def main(arguments=None):
    command_line = parser(__doc__)
    command_line.add_argument("--hide", type=float, default=0.1, help="share of the word pieces")
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
    schemes.augmented_self(plan, share=options.hide)
    print(f'Load it: AutoModelForSequenceClassification.from_pretrained("{options.output}")')


if __name__ == "__main__":
    main()
