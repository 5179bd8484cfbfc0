"""Boundary samples (Heo et al. 2018, arXiv:1805.05532): the student also learns where the teacher changes its mind.

    python examples/adversarial.py --iterations 10

`moved` shows what moves do to the teacher's probabilities. The algorithm, in which a falls to 1 and b to 0:

    for each batch:
        k = a label of each text, drawn by how unsure the teacher is of it; x = the texts where both get k right
        while the teacher decides k as before, at most `--iterations` times:
            x moves in embedding space along the gradient of the teacher's score of k, towards the other decision
        the student minimises CE(labels) + a * KL(teacher || student) + b * KL(teacher(x) || student(x))
"""

import torch
from multilabel_distilbert import compute_metrics, load, parser, settings

from hf_distill import DistillationConfig, schemes, students
from hf_distill.augment.boundary import boundary_samples, draw_targets, margins
from hf_distill.tasks import Task


def main(arguments=None):
    command_line = parser(__doc__)
    command_line.add_argument("--iterations", type=int, default=10, help="moves of a sample at most")
    options = command_line.parse_args(arguments)
    teacher, tokenizer, dataset = load(options)
    moved(teacher, tokenizer, dataset["train"].select(range(8)), options.iterations)
    plan = schemes.Plan(
        students.from_teacher(teacher, architecture="distilbert", layers=options.layers),
        teacher,
        args=DistillationConfig(**settings(options)),
        train_dataset=dataset["train"],
        eval_dataset=dataset["validation"],
        processing_class=tokenizer,
        compute_metrics=compute_metrics,
    )
    schemes.adversarial(plan, iterations=options.iterations)
    print(f'Load it: AutoModelForSequenceClassification.from_pretrained("{options.output}")')


def moved(teacher, tokenizer, rows, iterations):
    """Prints for some texts the label whose decision is to change, and its probability before and after."""
    inputs = tokenizer.pad(rows.select_columns(["input_ids", "attention_mask"])[:], return_tensors="pt")
    labels, mask = torch.tensor(rows["labels"]).long(), inputs["attention_mask"]
    before = teacher(**inputs).logits
    targets = draw_targets(before, labels, Task.MULTI_LABEL, torch.rand(len(labels)))
    found = boundary_samples(
        lambda embeddings, some: teacher(inputs_embeds=embeddings, attention_mask=mask[some]).logits,
        teacher.get_input_embeddings()(inputs["input_ids"]),
        mask.bool(), labels, targets, Task.MULTI_LABEL, iterations,
    )  # fmt: skip
    after = teacher(inputs_embeds=found, attention_mask=mask).logits
    sides = [margins(logits, labels, targets, Task.MULTI_LABEL).sigmoid().tolist() for logits in (before, after)]
    for target, one, other in zip(targets.tolist(), *sides, strict=True):
        print(f"{teacher.config.id2label[target]:20}right with probability {one:.2f} -> {other:.2f}")


if __name__ == "__main__":
    main()
