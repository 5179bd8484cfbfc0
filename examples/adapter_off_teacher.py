"""The base example's teacher goes on learning by LoRA adapters, and is held by what it says without them.

    python examples/adapter_off_teacher.py --rank 8 --hold 0.5

There is one model in memory: with its adapters it is the student, without them the teacher. On messages of a new kind
it then learns their labels and forgets less of what it knew. A recipe says
`teacher: {kind: {name: AdapterOffTeacher}}` and `student: {model: ..., lora: {r: 8}}`.
"""

from multilabel_distilbert import compute_metrics, load, parser, settings, show
from peft import LoraConfig, get_peft_model

from hf_distill import DistillationConfig, DistillationTrainer, losses, teachers


def main(arguments=None):
    command_line = parser(__doc__)
    command_line.set_defaults(learning_rate=2e-3)
    command_line.add_argument("--rank", type=int, default=8)
    command_line.add_argument("--hold", type=float, default=0.5, help="weight of the model's former answers")
    options = command_line.parse_args(arguments)
    model, tokenizer, dataset = load(options)
    config = LoraConfig(r=options.rank, target_modules=["query", "value"], modules_to_save=["classifier"])
    student = get_peft_model(model, config)
    trainer = DistillationTrainer(
        model=student,
        teacher=teachers.AdapterOffTeacher(student),
        losses=[losses.TaskLoss(), losses.SoftTargets(temperature=1.0, weight=options.hold)],
        args=DistillationConfig(**settings(options)),
        train_dataset=dataset["train"],
        eval_dataset=dataset["validation"],
        processing_class=tokenizer,
        compute_metrics=compute_metrics,
    )
    before = trainer.evaluate()
    trainer.train()
    show(before, trainer.evaluate())
    student.merge_and_unload().save_pretrained(options.output)
    tokenizer.save_pretrained(options.output)
    print(f'Load it: AutoModelForSequenceClassification.from_pretrained("{options.output}")')


if __name__ == "__main__":
    main()
