"""No training text at all (Chen et al. 2019, arXiv:1904.01186, and others): inputs are made of the teacher.

    python examples/data_free.py --source embeddings          # optimised until the teacher is sure of them
    python examples/data_free.py --source generator --rounds 5
    python examples/data_free.py --source random_tokens       # the baseline
    python examples/data_free.py --source masked_lm --lm my/masked-lm

The training file is not read but for what its owner would publish: with `--publish`, the mean and variance of each
layer's hidden states. The validation file says how good the student is on real text.

The algorithm:

    for each round:
        rows = embeddings that minimise CE(teacher's own decision) - entropy of the batch's mean answer
               + distance from published layer statistics - disagreement of teacher and student (generator),
               or texts that a language model samples
        the student minimises KL(teacher(rows) || student(rows))
"""

from multilabel_distilbert import compute_metrics, load, parser, settings
from transformers import DataCollatorWithPadding

from hf_distill import DistillationConfig, losses, schemes, students
from hf_distill.augment import statistics


def main(arguments=None):
    command_line = parser(__doc__)
    command_line.add_argument(
        "--source", default="embeddings", help="or generator, masked_lm, causal_lm, random_tokens"
    )
    command_line.add_argument("--rows", type=int, default=1000, help="inputs of each round")
    command_line.add_argument("--rounds", type=int, default=1)
    command_line.add_argument("--steps", type=int, help="of the optimizer that makes inputs, where there is one: 100")
    command_line.add_argument("--lm", help="folder or Hub id of a language model that writes the texts")
    command_line.add_argument("--publish", help="folder for the statistics of the teacher's layers")
    options = command_line.parse_args(arguments)
    teacher, tokenizer, dataset = load(options)
    if options.publish:  # this is done by the teacher's owner, who has texts
        inside = dataset["train"].remove_columns("labels")
        statistics.save(statistics.measure(teacher, inside, DataCollatorWithPadding(tokenizer)), options.publish)
    plan = schemes.Plan(
        students.from_teacher(teacher, architecture="distilbert", layers=options.layers),
        teacher,
        losses=[losses.SoftTargets(temperature=2.0), losses.HiddenMSE(dict(enumerate(options.layers)), weight=0.1)],
        args=DistillationConfig(**settings(options)),
        eval_dataset=dataset["validation"],
        processing_class=tokenizer,
        compute_metrics=compute_metrics,
    )
    made = {"rows": options.rows, "rounds": options.rounds, "steps": options.steps}
    schemes.data_free(plan, options.source, **made, lm=options.lm, published=options.publish)
    print(f'Load it: AutoModelForSequenceClassification.from_pretrained("{options.output}")')


if __name__ == "__main__":
    main()
