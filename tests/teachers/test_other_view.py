"""Two views of an example: each model reads its own, and nothing mixes them up."""

import pytest
import torch
from datasets import Dataset
from models import LABELS, VOCABULARY, tiny
from runs import classifier, distillation, rows, same, weights, words
from transformers import DataCollatorWithPadding

from hf_distill.batch import Batch
from hf_distill.losses import HiddenMSE, RKDDistance, SoftTargets, TaskLoss
from hf_distill.signals import LOGITS, pooled
from hf_distill.tasks import Task
from hf_distill.teachers import (
    CachedTeacher,
    CallableTeacher,
    EnsembleTeacher,
    OtherView,
    PairedCollator,
    SpecialistTeacher,
    add_view,
)

SMALL = 20  # words that the teacher knows


def other_teacher(seed=1, **fields):
    """Knows fewer words, and less of a text, than the student."""
    return classifier(seed=seed, vocab_size=SMALL, max_position_embeddings=9, **fields)


def two_views(count=16, labels=True):
    """The student's ids are beyond the teacher's words; the views have other lengths, each row its own."""
    data = rows(count, labels=labels)
    generator = torch.Generator().manual_seed(5)
    theirs = [torch.randint(3, SMALL, (3 + 5 * i % 7,), generator=generator).tolist() for i in range(count)]
    mine = [row[: 2 + i % 5] for i, row in enumerate(data["input_ids"])]
    columns = {
        "input_ids": mine,
        "teacher_input_ids": theirs,
        "teacher_attention_mask": [[1] * len(t) for t in theirs],
    }
    columns |= {"labels": data["labels"]} if labels else {}
    return Dataset.from_dict(columns)


def collator():
    return PairedCollator(words(), words(SMALL))


def by_hand(teacher):
    def answer(batch):
        ids, mask = batch.inputs["teacher_input_ids"], batch.inputs["teacher_attention_mask"]
        return teacher(input_ids=ids, attention_mask=mask).logits

    return CallableTeacher(answer, input_names=["teacher_input_ids", "teacher_attention_mask"])


def trained(folder, teacher, losses=None, **settings):
    student = classifier()
    settings = {"data_collator": collator(), "eval_dataset": two_views(8), **settings}
    trainer = distillation(folder, student, teacher, losses or [TaskLoss(), SoftTargets()], two_views(), **settings)
    trainer.train()
    return weights(student), trainer.evaluate()


def test_the_teacher_reads_its_own_columns(tmp_path):
    expected, figures = trained(tmp_path / "hand", by_hand(other_teacher()))
    found, mine = trained(tmp_path / "view", OtherView(other_teacher()), processing_class=words())
    assert same(found, expected)
    assert mine["eval_agreement"] == figures["eval_agreement"]


@pytest.mark.parametrize("several", [EnsembleTeacher, SpecialistTeacher])
def test_of_several_teachers_everybody_reads_the_other_view(tmp_path, several):
    """Theirs is another vocabulary than the student's, which only another view may be."""
    knobs = {"subsets": [[0, 1]]} if several is SpecialistTeacher else {}
    models = [other_teacher(), other_teacher(seed=2)]
    teacher = several(models, **knobs)
    teacher.prepare(other_teacher(seed=3), frozenset({LOGITS}), torch.device("cpu"), None)

    def answer(batch):
        names = ("input_ids", "attention_mask")
        inputs = {name: batch.inputs[f"teacher_{name}"] for name in names}
        return teacher.observe(Batch(inputs, Task.SINGLE_LABEL))[LOGITS]

    hand = CallableTeacher(answer, input_names=["teacher_input_ids", "teacher_attention_mask"])
    expected, _ = trained(tmp_path / "hand", hand)
    found, _ = trained(tmp_path / "view", OtherView(several(models, **knobs)), processing_class=words())
    assert same(found, expected)


def test_vectors_of_whole_examples_are_pooled_in_the_view_they_are_of(tmp_path):
    teacher = other_teacher()

    def answer(batch):
        ids, mask = batch.inputs["teacher_input_ids"], batch.inputs["teacher_attention_mask"]
        last = teacher.bert(input_ids=ids, attention_mask=mask).last_hidden_state
        mean = (last * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return {pooled("mean"): mean, LOGITS: torch.zeros(len(ids), LABELS)}

    names = ["teacher_input_ids", "teacher_attention_mask"]
    hand = CallableTeacher(answer, input_names=names)
    losses = [RKDDistance(pooling="mean")]
    expected = trained(tmp_path / "hand", hand, losses)[0]
    found = trained(tmp_path / "view", OtherView(other_teacher()), losses)[0]
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-5)


def test_each_view_is_padded_by_its_own_tokenizer():
    left = words(SMALL)
    left.padding_side, left.pad_token = "left", "[UNK]"
    data = [{"input_ids": [5, 6, 7], "teacher_input_ids": [8], "labels": 1}, {"input_ids": [5], "labels": 0}]
    data[1]["teacher_input_ids"] = [8, 9]
    made = PairedCollator(DataCollatorWithPadding(words()), left)(data)
    assert made["input_ids"].tolist() == [[5, 6, 7], [5, 0, 0]]
    assert made["teacher_input_ids"].tolist() == [[3, 8], [8, 9]]
    assert made["teacher_attention_mask"].tolist() == [[0, 1], [1, 1]]
    assert made["labels"].tolist() == [1, 0]
    with pytest.raises(ValueError, match=r"no column begins with teacher_, only input_ids\. Call add_view first"):
        collator()([{"input_ids": [5]}])
    with pytest.raises(ValueError, match="takes a tokenizer, a feature extractor or a collator, not 7"):
        PairedCollator(7)


def test_add_view_encodes_beside_what_is_there():
    tokenizer = words(SMALL)
    data = Dataset.from_dict({"input_ids": [[1], [2]], "other": ["word1 word2", "word3"]})
    made = add_view(data, lambda some: tokenizer(some["other"]))
    assert made["input_ids"][:] == [[1], [2]]
    assert made["teacher_input_ids"][:] == [[5, 6], [7]]
    assert made["teacher_attention_mask"][:] == [[1, 1], [1]]


@pytest.mark.parametrize(("student", "teacher"), [("vit", "bert"), ("bert", "vit")])
def test_an_image_and_a_text(tmp_path, student, teacher):
    """Neither has a column of the other's kind; one length of images, ragged texts."""
    heads = {"vit": "ForImageClassification", "bert": "ForSequenceClassification"}
    fields = {"num_labels": LABELS, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    learner, knower = (tiny(kind, heads[kind], seed, **fields) for seed, kind in enumerate((student, teacher)))
    ids = [[3 + i] * (2 + i % 4) for i in range(12)]
    images = torch.randn(12, 3, 16, 16, generator=torch.Generator().manual_seed(0)).tolist()
    columns = {"bert": ("input_ids", ids), "vit": ("pixel_values", images)}
    data = Dataset.from_dict(
        {columns[student][0]: columns[student][1], f"teacher_{columns[teacher][0]}": columns[teacher][1]}
    )
    sides = {"bert": words(), "vit": None}
    pads = PairedCollator(sides[student], sides[teacher])
    before = weights(learner)
    trainer = distillation(tmp_path, learner, OtherView(knower), [SoftTargets()], data, data_collator=pads)
    trainer.train()
    assert not same(before, weights(learner))
    batch = next(iter(trainer.get_train_dataloader()))
    assert set(batch) >= {columns[student][0], f"teacher_{columns[teacher][0]}"}


def test_two_images_may_be_compared_by_position(tmp_path):
    fields = {"num_labels": LABELS, "attention_probs_dropout_prob": 0.0}
    learner, knower = (tiny("vit", "ForImageClassification", seed, **fields) for seed in (0, 1))
    images = [torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(seed)).tolist() for seed in (0, 1)]
    data = Dataset.from_dict({"pixel_values": images[0], "teacher_pixel_values": images[1]})
    losses = [SoftTargets(), HiddenMSE()]
    trainer = distillation(tmp_path, learner, OtherView(knower), losses, data, data_collator=PairedCollator())
    assert trainer.train().training_loss > 0


def test_a_cache_inside_is_of_the_teachers_view(tmp_path):
    sgd = {"optim": "sgd"}  # Adam makes much of what is rounded otherwise in another batch
    expected = trained(tmp_path / "live", OtherView(other_teacher()), **sgd)[0]
    view = OtherView(CachedTeacher(tmp_path / "cache", other_teacher()), tokenizer=words(SMALL))
    student, data = classifier(), two_views()
    settings = {
        "data_collator": collator(),
        "eval_dataset": two_views(24),
        "eval_strategy": "steps",
        "eval_steps": 1,
        **sgd,
    }
    trainer = distillation(tmp_path, student, view, [TaskLoss(), SoftTargets()], data, **settings)
    view.fill({"train": data}, trainer.data_collator)
    with pytest.raises(ValueError, match="eval_dataset has rows that are not in"):
        trainer.train()
    view.fill([data, trainer.eval_dataset], trainer.data_collator)
    view.teacher._live = None  # nobody is asked any more
    trainer.train()
    for name, value in weights(student).items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-6)
    assert not same(weights(student), weights(classifier()))

    def read(batch):
        return view.observe(trainer_batch(batch))[LOGITS]

    batch = collator()([data[0], data[1]])
    known = read(batch)
    torch.testing.assert_close(read({**batch, "input_ids": batch["input_ids"] + 1}), known)
    with pytest.raises(ValueError, match="is not in"):
        read({**batch, "teacher_input_ids": (batch["teacher_input_ids"] + 1).clamp(max=SMALL - 1)})


def trainer_batch(inputs):
    from hf_distill.batch import Batch
    from hf_distill.tasks import Task

    return Batch(inputs, Task.SINGLE_LABEL)


def test_a_folder_alone_asks_for_the_teachers_tokenizer(tmp_path):
    view = OtherView(CachedTeacher(tmp_path / "cache", other_teacher()), tokenizer=words(SMALL))
    trainer = distillation(tmp_path, classifier(), view, [SoftTargets()], two_views(), data_collator=collator())
    view.fill(trainer.train_dataset, trainer.data_collator)
    again = OtherView(CachedTeacher(tmp_path / "cache"), tokenizer=words(SMALL))
    settings = {"data_collator": collator(), "processing_class": words()}
    assert distillation(tmp_path, classifier(), again, [SoftTargets()], two_views(), **settings).train()
    wrong = OtherView(CachedTeacher(tmp_path / "cache"), tokenizer=words(SMALL, shift=1))
    with pytest.raises(ValueError, match="tokenizer"):
        distillation(tmp_path, classifier(), wrong, [SoftTargets()], two_views(), **settings)


def test_rows_are_grouped_by_the_students_lengths(tmp_path):
    settings = {"data_collator": collator(), "processing_class": words(), "train_sampling_strategy": "auto"}
    trainer = distillation(
        tmp_path, classifier(), OtherView(other_teacher()), [SoftTargets()], two_views(), **settings
    )
    sampler = trainer._get_train_sampler()
    assert sampler.lengths == [len(ids) for ids in two_views()["input_ids"]]


def test_labels_are_still_compared_and_put_in_order(tmp_path):
    names = ["a", "b", "c"]
    teacher = other_teacher(id2label=dict(enumerate(reversed(names))))

    def student():
        return classifier(id2label=dict(enumerate(names)))

    with pytest.raises(ValueError, match="label order differs"):
        distillation(tmp_path, student(), OtherView(teacher), [SoftTargets()], two_views(), data_collator=collator())
    settings = {"data_collator": collator(), "label_map": "by_name"}
    trainer = distillation(tmp_path, student(), OtherView(teacher), [SoftTargets()], two_views(), **settings)
    batch = collator()([two_views()[0]])
    own = {name: batch[f"teacher_{name}"] for name in ("input_ids", "attention_mask")}
    torch.testing.assert_close(trainer.teacher.observe(trainer_batch(batch))[LOGITS], teacher(**own).logits.flip(-1))


def refused(folder, said, data=None, losses=None, student=None, teacher=None):
    with pytest.raises(ValueError, match=said):
        distillation(
            folder,
            student or classifier(),
            teacher or OtherView(other_teacher()),
            losses or [SoftTargets()],
            two_views() if data is None else data,
            data_collator=collator(),
        )


def test_what_cannot_work_is_refused_before_step_1(tmp_path):
    data = two_views()
    refused(tmp_path, r"OtherView: the losses compare hidden\(.*\) token by token", losses=[HiddenMSE()])
    refused(tmp_path, "train_dataset has no column that begins with teacher_", data=rows())
    long = data.map(lambda row: {"teacher_input_ids": [5] * 10})
    refused(tmp_path, "train_dataset has a sequence of 10 tokens, and the teacher takes 9", data=long)
    unknown = data.map(lambda row: {"teacher_input_ids": [SMALL]})
    refused(tmp_path, "train_dataset has token id 20, and the teacher knows 20", data=unknown)
    beyond = data.map(lambda row: {"input_ids": [VOCABULARY]})
    refused(tmp_path, "train_dataset has token id 50, and the student knows 50", data=beyond)
    unlabelled = data.remove_columns("labels")
    refused(tmp_path, "train_dataset has no labels", data=unlabelled, losses=[TaskLoss(), SoftTargets()])
    tokens = [tiny("bert", "ForTokenClassification", num_labels=LABELS) for _ in range(2)]
    refused(tmp_path, "in tokens each token has a prediction", student=tokens[0], teacher=OtherView(tokens[1]))
    with pytest.raises(ValueError, match="OtherView: prefix is empty"):
        OtherView(other_teacher(), prefix="")
    with pytest.raises(ValueError, match=r"fills a cache\. Make it OtherView\(CachedTeacher"):
        OtherView(other_teacher()).fill(data, collator())


def test_a_batch_without_the_view_says_which_collator(tmp_path):
    trainer = distillation(
        tmp_path, classifier(), OtherView(other_teacher()), [SoftTargets()], two_views(), data_collator=collator()
    )
    with pytest.raises(ValueError, match=r"the batch holds no teacher_\.\.\., .* Pass data_collator=PairedCollator"):
        trainer.teacher.observe(trainer_batch({"input_ids": torch.ones(2, 3, dtype=torch.long)}))
