"""The base example, with two teachers: their softened answers are averaged, and they vote on which texts are alike.

    python examples/multi_teacher_triplet.py

You et al. 2017, doi:10.1145/3097983.3098135. The second teacher is made here: some blocks of the first, trained on the
labels alone. The table at the end says how good both teachers are together.

The algorithm:

    for each batch:
        q = mean of the teachers' softened probabilities
        for each triplet of texts, each teacher votes which of two is nearer to the third
        the student minimises CE(labels, p) + alpha * CE(q, p) + beta * (triplets in the order of most votes)
"""

from ensemble_teacher import second_teacher
from multilabel_distilbert import compute_metrics, load, parser, settings

from hf_distill import DistillationConfig, schemes, students, teachers


def main(arguments=None):
    command_line = parser(__doc__)
    command_line.add_argument("--beta", type=float, default=1.0, help="weight of the triplets")
    options = command_line.parse_args(arguments)
    teacher, tokenizer, dataset = load(options)
    second = second_teacher(teacher, tokenizer, dataset, options)
    plan = schemes.Plan(
        student=students.from_teacher(teacher, architecture="distilbert", layers=options.layers),
        teacher=teachers.EnsembleTeacher([teacher, second]),
        args=DistillationConfig(**settings(options)),
        train_dataset=dataset["train"],
        eval_dataset=dataset["validation"],
        processing_class=tokenizer,
        compute_metrics=compute_metrics,
    )
    schemes.multi_teacher_triplet(plan, temperature=2.0, beta=options.beta)
    print(f'Load it: AutoModelForSequenceClassification.from_pretrained("{options.output}")')


if __name__ == "__main__":
    main()
