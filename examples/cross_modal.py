"""A model of pictures learns from a model of words what their pairs are about, and never sees a label.

    python examples/emoji_pairs.py --pairs my/pairs --output out/of_words        # a teacher, from words and labels
    python examples/cross_modal.py --pairs my/pairs --teacher out/of_words

Gupta, Hoffman, Malik 2015, arXiv:1507.00448, with answers where the paper matches features.

The algorithm:

    for each pair (words, picture), without its label:
        the student minimises KL(teacher(words) || student(picture))
"""

from emoji_pairs import COMMON, compute_metrics, load, parser
from transformers import AutoModelForSequenceClassification, AutoTokenizer, ViTConfig, ViTForImageClassification

from hf_distill import DistillationConfig, schemes, teachers


def main(arguments=None):
    command_line = parser(__doc__, "out/cross_modal", epochs=20)
    command_line.add_argument("--teacher", default="out/of_words", help="folder or Hub id of a classifier of words")
    options = command_line.parse_args(arguments)
    teacher = AutoModelForSequenceClassification.from_pretrained(options.teacher)
    tokenizer = AutoTokenizer.from_pretrained(options.teacher)
    rows, labels = load(options.pairs)
    pairs = {split: teachers.add_view(part, lambda some: tokenizer(some["words"])) for split, part in rows.items()}

    shape = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 256}
    student = ViTForImageClassification(ViTConfig(image_size=32, patch_size=4, **shape, **labels))
    plan = schemes.Plan(
        student,
        teacher,
        args=DistillationConfig(options.output, num_train_epochs=options.epochs, learning_rate=1e-3, **COMMON),
        train_dataset=pairs["train"],
        eval_dataset=pairs["test"],
        compute_metrics=compute_metrics,
        data_collator=teachers.PairedCollator(None, tokenizer),  # pictures need no padding
    )
    schemes.cross_modal(plan)
    print(f"student, of pictures: accuracy {plan.stages[-1].metrics['accuracy']:.3f}")
    print(f'Load it: ViTForImageClassification.from_pretrained("{options.output}")')


if __name__ == "__main__":
    main()
