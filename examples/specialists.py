"""A generalist, specialists for the classes that it confuses, and a student that learns what they say together.

    python examples/specialists.py --count 3

Hinton, Vinyals, Dean 2015, arXiv:1503.02531, section 5. For one label a row: rows of several are left out here. The
table at the end says how good the generalist is alone, and together with the specialists.
"""

import csv

from datasets import load_dataset
from multilabel_distilbert import parser, settings
from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed

from hf_distill import DistillationConfig, DistillationTrainer, data, demo, losses, schemes, students
from hf_distill.evaluation import compute_metrics
from hf_distill.tasks import Task
from hf_distill.teachers import Nobody


def main(arguments=None):
    command_line = parser(__doc__)
    command_line.add_argument("--count", type=int, default=3, help="clusters of classes")
    options = command_line.parse_args(arguments)
    generalist, tokenizer, dataset = one_label(options)
    given = {"train_dataset": dataset["train"], "processing_class": tokenizer}
    args = DistillationConfig(**{**settings(options), "output_dir": f"{options.output}_generalist"})
    DistillationTrainer(generalist, Nobody(), [losses.TaskLoss()], args, **given).train()
    plan = schemes.Plan(
        student=students.from_teacher(generalist, architecture="distilbert", layers=options.layers),
        teacher=generalist.eval(),
        args=DistillationConfig(**settings(options)),
        eval_dataset=dataset["validation"],
        compute_metrics=compute_metrics(Task.SINGLE_LABEL),
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
