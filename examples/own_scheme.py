"""The base example, with a scheme of one's own: a student is weaned, stage by stage from the teacher to the labels.

    python examples/own_scheme.py --shares 1 0.5 0

After the teacher annealing of Clark et al. 2019, arXiv:1907.04829, which moves from one to the other in every step. A
scheme is a function of a plan: what its stages would refuse is refused before the first is trained, each stage is kept
in a folder of its own, and `schemes.Plan(..., resume=True)` goes on where a former run was cut off.
"""

from multilabel_distilbert import compute_metrics, load, parser, settings

from hf_distill import DistillationConfig, losses, schemes, students


@schemes.scheme
def weaned(plan, shares):
    student = plan.fresh()
    for number, share in enumerate(shares):
        terms = [losses.TaskLoss(weight=1 - share), losses.SoftTargets(temperature=2.0, weight=share)]
        part = (number / len(shares), (number + 1) / len(shares))  # of the epochs
        student = plan.stage(f"share_{share:g}", student, plan.teacher, terms, share=part)
    return student


def main(arguments=None):
    command_line = parser(__doc__)
    command_line.add_argument("--shares", type=float, nargs="+", default=[1.0, 0.5, 0.0], help="of the soft targets")
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
    weaned(plan, shares=options.shares)
    print(f'Load it: AutoModelForSequenceClassification.from_pretrained("{options.output}")')


if __name__ == "__main__":
    main()
