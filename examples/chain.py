"""The base example, with teacher assistants: the teacher teaches a smaller model, and the last of them the student.

    python examples/chain.py --sizes 5 4

Mirzadeh et al. 2019, arXiv:1902.03393. Every hop starts from the best checkpoint of the one before. The table at the
end says how good each model is.

The algorithm:

    A_0 = the teacher
    for each size between the teacher's and the student's, from the largest to the smallest:
        A_i = a model of that size, which learns from A_(i-1)       # from its best checkpoint
    the student learns from the last A_i
"""

from multilabel_distilbert import compute_metrics, load, parser, settings

from hf_distill import DistillationConfig, losses, schemes, students


def main(arguments=None):
    command_line = parser(__doc__)
    command_line.add_argument("--sizes", type=int, nargs="+", default=[5, 4], help="blocks of the assistants")
    options = command_line.parse_args(arguments)
    teacher, tokenizer, dataset = load(options)
    plan = schemes.Plan(
        student=students.from_teacher(teacher, architecture="distilbert", layers=options.layers),
        teacher=teacher,
        losses=[
            losses.TaskLoss(weight=0.5),
            losses.SoftTargets(temperature=2.0, weight=0.5),
            losses.HiddenMSE("uniform", weight=0.1),  # no layers by number: the models differ from hop to hop
        ],
        args=DistillationConfig(**settings(options), metric_for_best_model="mean_average_precision"),
        train_dataset=dataset["train"],
        eval_dataset=dataset["validation"],
        processing_class=tokenizer,
        compute_metrics=compute_metrics,
    )
    schemes.chain(plan, sizes=options.sizes)
    print(f'Load it: AutoModelForSequenceClassification.from_pretrained("{options.output}")')


if __name__ == "__main__":
    main()
