"""The base example as TinyBERT does it: what is inside of the teacher first, its predictions second, on more text.

    python examples/two_stage.py --samples 2

Jiao et al. 2020, arXiv:1909.10351. `--samples` copies of each row have words replaced by neighbours in the teacher's
own embeddings, or by what a masked language model with the same vocabulary proposes: `--masked-lm bert-base-uncased`.
Copies have no labels: the teacher says what they are.

The algorithm:

    texts = the rows, and copies of each with words replaced
    1. on them the student minimises MSE(embeddings) + sum over its layers of MSE(hidden states) + MSE(attention)
    2. on them the student minimises KL(teacher's answers || student's answers)
"""

from multilabel_distilbert import compute_metrics, load, parser, settings

from hf_distill import DistillationConfig, schemes, students


def main(arguments=None):
    command_line = parser(__doc__)
    command_line.add_argument("--samples", type=int, default=2, help="copies of each row")
    command_line.add_argument("--masked-lm", help="Hub id or folder")
    options = command_line.parse_args(arguments)
    teacher, tokenizer, dataset = load(options)
    plan = schemes.Plan(
        student=students.from_teacher(teacher, architecture="distilbert", layers=options.layers),
        teacher=teacher,
        args=DistillationConfig(**settings(options)),
        train_dataset=dataset["train"],
        eval_dataset=dataset["validation"],
        processing_class=tokenizer,
        compute_metrics=compute_metrics,
    )
    schemes.two_stage(plan, samples=options.samples, masked_lm=options.masked_lm)
    print(f'Load it: AutoModelForSequenceClassification.from_pretrained("{options.output}")')


if __name__ == "__main__":
    main()
