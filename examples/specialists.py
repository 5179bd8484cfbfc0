"""A generalist, specialists for the classes that it confuses, and a student that learns what they say together.

    python examples/specialists.py --count 3

Hinton, Vinyals, Dean 2015, arXiv:1503.02531, section 5, for rows with one label. The algorithm:

    clusters = K-means of the columns of the correlation of the generalist's predictions
    for each cluster: its specialist = the generalist with a head for these classes and a dustbin, trained on rows of
        which half are theirs; the dustbin's logit then grows by the log of how much too often that is
    for each text: A = the specialists whose clusters hold the generalist's most probable class
        q minimises KL(generalist || q) + sum over m in A of KL(specialist m || q), and the student learns q
"""

import csv

from datasets import load_dataset
from multilabel_distilbert import parser, settings
from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed

from hf_distill import DistillationConfig, DistillationTrainer, data, demo, losses, schemes, students
from hf_distill.evaluation import compute_metrics
from hf_distill.teachers import Nobody


def main(arguments=None):
    command_line = parser(__doc__)
    command_line.add_argument("--count", type=int, default=3, help="clusters of classes")
    options = command_line.parse_args(arguments)
    generalist, tokenizer, dataset = one_label(options)
    rows = {"train_dataset": dataset["train"], "eval_dataset": dataset["validation"]}
    given = {**rows, "processing_class": tokenizer, "compute_metrics": compute_metrics("single_label")}
    args = DistillationConfig(**{**settings(options), "output_dir": f"{options.output}_generalist"})
    DistillationTrainer(generalist, Nobody(), [losses.TaskLoss()], args, **given).train()
    plan = schemes.Plan(
        student=students.from_teacher(generalist, architecture="distilbert", layers=options.layers),
        teacher=generalist.eval(),
        args=DistillationConfig(**settings(options)),
        **given,
    )
    schemes.specialists(plan, count=options.count)
    print(f'Load it: AutoModelForSequenceClassification.from_pretrained("{options.output}")')


def one_label(options):
    """A generalist that knows nothing yet, its tokenizer, and the rows with one label."""
    set_seed(0)
    source = options.teacher or demo.encoder_folder()
    files = {"train": options.train, "validation": options.eval}
    rows = load_dataset("csv", data_files=files, sep="\t", quoting=csv.QUOTE_NONE, keep_default_na=False)
    rows = rows.filter(lambda row: row["labels"] and "," not in row["labels"])
    names = dict(enumerate(sorted({*rows["train"]["labels"], *rows["validation"]["labels"]})))
    head = {"id2label": names, "problem_type": "single_label_classification", "ignore_mismatched_sizes": True}
    generalist = AutoModelForSequenceClassification.from_pretrained(source, **head)
    tokenizer = AutoTokenizer.from_pretrained(source)
    return generalist, tokenizer, data.encode(rows, tokenizer, task="single_label", id2label=names, max_length=96)


if __name__ == "__main__":
    main()
