"""The base example, born again: each generation is taught by the one before it, and all together teach the last one.

    python examples/born_again.py --generations 3 --ensemble

Furlanello et al. 2018, arXiv:1805.04770. The table at the end says how good each generation is, and how good all are
together. Labels of which each row has one could also be weighted: weighting="cwtm" or "dkpp".

The algorithm:

    f_0 = the teacher                                               # without one, f_1 learns the labels alone
    for k = 1, ..., generations:
        f_k = a fresh student, which minimises CE(labels, f_k) + KL(f_(k-1) || f_k)
    the ensemble is the mean of f_1, f_2, ...                       # and teaches one student more
"""

from multilabel_distilbert import compute_metrics, load, parser, settings

from hf_distill import DistillationConfig, schemes, students


def main(arguments=None):
    command_line = parser(__doc__)
    command_line.add_argument("--generations", type=int, default=3)
    command_line.add_argument("--ensemble", action="store_true", help="all generations teach one student more")
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
    schemes.born_again(plan, generations=options.generations, ensemble=options.ensemble)
    print(f'Load it: AutoModelForSequenceClassification.from_pretrained("{options.output}")')


if __name__ == "__main__":
    main()
