"""The base example, and the student goes to the Hub, with its card, and is loaded back from there.

    hf auth login                                     # or HF_TOKEN, a token with write access
    python examples/push_to_hub.py --hub-id my-student

Weights, config, tokenizer and card go up in one commit, and nothing else of the folder.
"""

from multilabel_distilbert import compute_metrics, load, parser, settings, show
from transformers import pipeline

from hf_distill import DistillationConfig, DistillationTrainer, losses, students


def main(arguments=None):
    command_line = parser(__doc__)
    command_line.add_argument("--hub-id", default="distilled-student", help="`name` or `owner/name`")
    command_line.add_argument("--public", action="store_true", help="for everybody; private by default")
    options = command_line.parse_args(arguments)
    teacher, tokenizer, dataset = load(options)
    student = students.from_teacher(teacher, architecture="distilbert", layers=options.layers)
    trainer = DistillationTrainer(
        model=student,
        teacher=teacher,
        losses=[
            losses.TaskLoss(weight=0.5),
            losses.SoftTargets(temperature=2.0, weight=0.5),
            losses.HiddenMSE(dict(enumerate(options.layers)), weight=0.1),
        ],
        args=DistillationConfig(
            **settings(options), push_to_hub=True, hub_model_id=options.hub_id, hub_private_repo=not options.public
        ),
        train_dataset=dataset["train"],
        eval_dataset=dataset["validation"],
        processing_class=tokenizer,
        compute_metrics=compute_metrics,
    )
    before = trainer.evaluate()
    trainer.train()
    show(before, trainer.evaluate())
    print("On the Hub:", trainer.push_to_hub())  # saves the model first, as save_model does

    classifier = pipeline("text-classification", model=trainer.hub_model_id, top_k=None)
    for found in classifier(["My parcel is two weeks late and nobody answers!"])[0][:3]:
        print(f"{found['label']:30}{found['score']:.3f}")
    print(f'Load it: pipeline("text-classification", model="{trainer.hub_model_id}", top_k=None)')


if __name__ == "__main__":
    main()
