"""The base example with exits: the student's last block teaches heads at the blocks below it, which stay.

    python examples/be_your_own_teacher.py --exits 0 1

Zhang et al. 2019, arXiv:1905.08094. Each exit is compared with the same exit trained alone, and at the end the model
answers each text after the first block where it is sure enough.

The algorithm:

    p_C, F_C = answer and feature of the last block; p_i, F_i = those of exit i
    the last block minimises CE(labels, p_C)
    exit i minimises (1 - alpha) * CE(labels, p_i) + alpha * KL(p_C || p_i) + lambda * |F_i - F_C|^2
"""

import torch
from multilabel_distilbert import compute_metrics, load, parser, settings
from torch.utils.data import DataLoader
from transformers import DataCollatorWithPadding, EvalPrediction

from hf_distill import DistillationConfig, DistillationTrainer, losses, schemes, students, teachers


def main(arguments=None):
    command_line = parser(__doc__)
    command_line.add_argument("--exits", type=int, nargs="+", default=[0, 1], help="blocks of the student")
    options = command_line.parse_args(arguments)
    teacher, tokenizer, dataset = load(options)
    student = students.from_teacher(teacher, architecture="distilbert", layers=options.layers)
    args = DistillationConfig(**settings(options))
    kwargs = {"train_dataset": dataset["train"], "processing_class": tokenizer}
    plan = schemes.Plan(
        student, args=args, eval_dataset=dataset["validation"], compute_metrics=compute_metrics, **kwargs
    )
    schemes.be_your_own_teacher(plan, layers=options.exits, keep_exits=True)
    together = schemes.EarlyExit.from_pretrained(options.output)
    batches = list(DataLoader(dataset["validation"], 32, collate_fn=DataCollatorWithPadding(tokenizer)))
    for layer in options.exits:
        only = losses.SelfExits([layer], alpha=0, hint_weight=0)  # its labels alone
        trainer = DistillationTrainer(plan.fresh(), teachers.Nobody(), [only], args, **kwargs)
        trainer.train()
        alone = schemes.EarlyExit(trainer.model, trainer.objective.losses["self_exits"])
        print(
            f"exit {layer}: {quality(alone, layer, batches):.3f} alone, {quality(together, layer, batches):.3f} here"
        )
    sure = [together.sure(batch, threshold=0.9)[1] for batch in batches]
    print("left after block:", {layer: sum(int((each == layer).sum()) for each in sure) for layer in together.layers})
    print(f'Load it: AutoModelForSequenceClassification.from_pretrained("{options.output}")')


def quality(model, layer, batches):
    """Mean average precision."""
    predictions = torch.cat([model(batch, layer) for batch in batches]).numpy()
    labels = torch.cat([batch["labels"] for batch in batches]).numpy()
    return compute_metrics(EvalPrediction(predictions, labels))["mean_average_precision"]


if __name__ == "__main__":
    main()
