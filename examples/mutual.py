"""Students without a teacher: several are trained at once, from the same batches, and teach one another.

    python examples/mutual.py --students 2

Deep mutual learning (Zhang et al. 2018, arXiv:1706.00384). `--teacher` only says where the students' first weights and
labels come from; all but the first begin with a head of their own.

The algorithm:

    for each batch, when all have predicted, for each student i:
        L_i = CE(labels, p_i) + mean over the others j of KL(p_j || p_i)
        one step of student i's own optimizer on L_i
"""

from multilabel_distilbert import compute_metrics, load, parser, settings

from hf_distill import DistillationConfig, schemes, students


def main(arguments=None):
    command_line = parser(__doc__)
    command_line.add_argument("--students", type=int, default=2, help="how many")
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
    schemes.mutual(plan, students=options.students)
    print(f'Load it: AutoModelForSequenceClassification.from_pretrained("{options.output}")')
    print(f'Another: AutoModelForSequenceClassification.from_pretrained("{options.output}/peer_2")')


if __name__ == "__main__":
    main()
