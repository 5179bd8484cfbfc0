"""The base example, and the student is frozen but for LoRA adapters and its head.

    python examples/lora_student.py --rank 8

The hidden states go through projections here, which are trained beside the adapters and thrown away at the end. What
is saved is the student with its adapters merged: a plain model, no larger and no slower than without them.
"""

from multilabel_distilbert import compute_metrics, load, parser, settings, show
from peft import LoraConfig

from hf_distill import DistillationConfig, DistillationTrainer, losses, students


def main(arguments=None):
    command_line = parser(__doc__)
    command_line.set_defaults(learning_rate=2e-3)  # few weights learn: they take larger steps
    command_line.add_argument("--rank", type=int, default=8)
    options = command_line.parse_args(arguments)
    teacher, tokenizer, dataset = load(options)
    student = students.from_teacher(teacher, architecture="distilbert", layers=options.layers)
    trainer = DistillationTrainer(
        model=student,
        teacher=teacher,
        losses=[
            losses.TaskLoss(weight=0.5),
            losses.SoftTargets(temperature=2.0, weight=0.5),
            losses.HiddenMSE(dict(enumerate(options.layers)), projection="linear", weight=0.1),
        ],
        args=DistillationConfig(**settings(options)),
        train_dataset=dataset["train"],
        eval_dataset=dataset["validation"],
        processing_class=tokenizer,
        compute_metrics=compute_metrics,
        peft_config=LoraConfig(
            r=options.rank,
            lora_alpha=2 * options.rank,
            target_modules=["q_lin", "v_lin"],
            modules_to_save=["pre_classifier", "classifier"],
        ),
    )
    trainer.model.print_trainable_parameters()
    before = trainer.evaluate()
    trainer.train()
    show(before, trainer.evaluate())
    trainer.save_model(f"{options.output}/adapter")  # of use beside this very student only
    trainer.model.merge_and_unload().save_pretrained(options.output)
    tokenizer.save_pretrained(options.output)
    print(f'Load it: AutoModelForSequenceClassification.from_pretrained("{options.output}")')


if __name__ == "__main__":
    main()
