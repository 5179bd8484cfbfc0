"""What is refused before step 1, through the trainer as a user meets it, and what is let through."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset, DatasetDict, Features, LargeList, Sequence, Value, concatenate_datasets
from models import LABELS, VOCABULARY, tiny
from runs import classifier, distillation, exactly, rows, same, weights, words
from torch import nn
from transformers import DataCollatorForLanguageModeling

from hf_distill import checks
from hf_distill.losses import AttentionKL, AttentionMSE, HiddenMSE, SoftTargets, TaskLoss
from hf_distill.teachers import ModelTeacher

ROOT = Path(__file__).parents[1]
NAMES = {0: "anger", 1: "joy", 2: "fear"}
PERMUTED = {0: "joy", 1: "fear", 2: "anger"}


def named(labels: dict[int, str], seed: int = 0, **fields):
    return classifier(seed=seed, id2label=labels, label2id={name: index for index, name in labels.items()}, **fields)


def refused(message: str):
    return pytest.raises(ValueError, match=exactly(message))


# --- labels


@pytest.mark.parametrize("count", [5, 1])
def test_another_number_of_labels(tmp_path, count):
    message = f"the student has {count} labels, the teacher 3. Load the student with num_labels=3."
    with refused(message):
        distillation(tmp_path, classifier(num_labels=count), classifier())


def test_other_labels(tmp_path):
    message = (
        "the labels differ: teacher id2label[2] is 'fear', student's is 'calm'. "
        "Load the student with id2label=teacher.config.id2label."
    )
    with refused(message):
        distillation(tmp_path, named(NAMES | {2: "calm"}), named(NAMES), label_map="by_name")


def test_labels_in_another_order(tmp_path):
    message = (
        "label order differs: teacher id2label[0] is 'joy', student's is 'anger'. "
        'Pass label_map="by_name" to reorder the teacher\'s logits.'
    )
    with refused(message):
        distillation(tmp_path, named(NAMES), named(PERMUTED))


@pytest.mark.parametrize("given", ["teacher", "config"])
def test_by_name_reorders_the_teacher_and_says_so(tmp_path, caplog, given):
    teacher, permuted = named(NAMES, seed=1), named(PERMUTED, seed=1)
    index_of = {name: index for index, name in NAMES.items()}
    order = [index_of[name] for name in PERMUTED.values()]
    with torch.no_grad():
        for mine, theirs in zip(permuted.classifier.parameters(), teacher.classifier.parameters(), strict=True):
            mine.copy_(theirs[order])
    plain = distillation(tmp_path / "plain", named(NAMES), teacher)
    assert "reordered" not in caplog.text
    if given == "teacher":
        mapped = distillation(tmp_path / "mapped", named(NAMES), ModelTeacher(permuted, label_map="by_name"))
    else:
        mapped = distillation(tmp_path / "mapped", named(NAMES), permuted, label_map="by_name")
    said = "label_map='by_name': the teacher's logits are reordered to the student's labels: [2, 0, 1]"
    assert said in caplog.text
    for trainer in (plain, mapped):
        trainer.train()
    assert same(weights(plain.model), weights(mapped.model))
    terms = [[each.get("soft_targets") for each in t.state.log_history] for t in (plain, mapped)]
    assert terms[0] == terms[1]
    assert not same(weights(plain.model), weights(named(NAMES)))


def test_by_name_also_where_the_order_is_the_same(tmp_path, caplog):
    distillation(tmp_path, named(NAMES), named(NAMES), label_map="by_name")
    assert "reordered" not in caplog.text


def test_labels_that_nobody_named_are_the_teachers(tmp_path):
    trainer = distillation(tmp_path, classifier(), named(NAMES))
    assert trainer.model.config.id2label == NAMES
    assert trainer.model.config.label2id == {name: index for index, name in NAMES.items()}


# --- what they solve


def test_other_problem_types(tmp_path):
    message = (
        "the student solves single_label, the teacher multi_label. Give both the same head, and for classifiers the "
        "same config.problem_type (student 'single_label_classification', teacher 'multi_label_classification')."
    )
    with refused(message):
        distillation(
            tmp_path,
            classifier(problem_type="single_label_classification"),
            classifier(problem_type="multi_label_classification"),
        )


def test_other_heads(tmp_path):
    message = (
        "the student solves tokens, the teacher single_label. Give both the same head, and for classifiers the same "
        "config.problem_type (student None, teacher None)."
    )
    with refused(message):
        distillation(tmp_path, tiny("bert", "ForTokenClassification", num_labels=LABELS), classifier())


# --- what they read


def test_another_size_of_vocabulary(tmp_path):
    message = (
        "the student's vocabulary has 50 entries, the teacher's 60. Take a student with the teacher's tokenizer, for "
        "example students.keep_layers(teacher, ...). If only rows of padding differ, pass processing_class and "
        "teachers.ModelTeacher(teacher, tokenizer=...), so that it is known."
    )
    for tokenizer in (None, words()):
        with refused(message):
            distillation(tmp_path, classifier(), classifier(vocab_size=60), processing_class=tokenizer)


def test_a_vocabulary_padded_to_another_size(tmp_path, caplog):
    teacher = saved(tmp_path / "teacher", classifier(seed=1, vocab_size=60), words())
    with caplog.at_level("INFO", logger="hf_distill.checks"):
        distillation(tmp_path, classifier(), teacher, processing_class=words())
    told = "vocabularies of 50 (student) and 60 (teacher) entries have one tokenizer: the first 50 are compared."
    assert caplog.messages == [told]


def test_a_vocabulary_too_small_for_its_tokenizer(tmp_path):
    teacher = saved(tmp_path / "teacher", classifier(seed=1, vocab_size=60), words(55))
    message = (
        "the student's vocabulary has 50 entries, the teacher's 60, and their tokenizer's largest token id is 54. "
        "Take a student with the teacher's tokenizer, for example students.keep_layers(teacher, ...)."
    )
    with refused(message):
        distillation(tmp_path, classifier(), teacher, processing_class=words(55))


def saved(folder: Path, model: nn.Module, tokenizer: object = None) -> nn.Module:
    """The model as it is loaded back from a folder, its tokenizer beside it."""
    model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return type(model).from_pretrained(folder)


def test_a_permuted_vocabulary_found_beside_the_teachers_weights(tmp_path):
    teacher = saved(tmp_path / "teacher", classifier(seed=1), words(shift=1))
    message = (
        "the tokenizers differ: 'word0' is 4 in processing_class and 49 in the teacher's tokenizer. Take a student "
        "with the teacher's tokenizer, for example students.keep_layers(teacher, ...)."
    )
    with refused(message):
        distillation(tmp_path / "out", classifier(), teacher, processing_class=words())
    distillation(tmp_path / "out", classifier(), teacher, processing_class=words(shift=1))
    with refused(message):  # the same, where the teacher is told and not found
        told = ModelTeacher(classifier(seed=1), tokenizer=words(shift=1))
        distillation(tmp_path / "out", classifier(), told, processing_class=words())


def test_no_tokenizer_beside_the_teacher_is_none(tmp_path, monkeypatch):
    """transformers makes one of five words for a BERT folder without any; that is not the teacher's."""
    teacher = saved(tmp_path / "teacher", classifier(seed=1))
    distillation(tmp_path / "out", classifier(), teacher, processing_class=words())
    words(shift=1).save_pretrained(tmp_path / "here")  # nor is one in the current folder that of a teacher in memory
    classifier().save_pretrained(tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    distillation(tmp_path / "out", classifier(), classifier(seed=1), processing_class=words())


@pytest.mark.parametrize("which", ["student", "teacher"])
@pytest.mark.parametrize("split", ["train_dataset", "eval_dataset", "eval_dataset['dev']"])
def test_sequences_longer_than_a_model_takes(tmp_path, which, split):
    short = {"student": (8, 12), "teacher": (12, 8)}[which]
    student, teacher = (classifier(max_position_embeddings=positions) for positions in short)
    sets = {"data": rows(length=6), "eval_dataset": rows(length=6)}
    if "dev" in split:
        sets["eval_dataset"] = DatasetDict(dev=rows(length=9), test=rows(length=8))
    else:
        sets["data" if split == "train_dataset" else split] = rows(length=9)
    message = (
        f"{split} has a sequence of 9 tokens, and the {which} takes 8. Tokenise with truncation=True, max_length=8."
    )
    with refused(message):
        distillation(tmp_path, student, teacher, **sets)
    distillation(tmp_path, student, teacher, data=rows(length=8))


def test_token_ids_beyond_the_vocabulary(tmp_path):
    data = Dataset.from_dict({"input_ids": [[3, VOCABULARY], [4, 5]], "labels": [0, 1]})
    message = (
        "train_dataset has token id 50, and the student knows 50 (0 to 49). Tokenise with that model's own tokenizer."
    )
    with refused(message):
        distillation(tmp_path, classifier(), classifier(), data=data)


def test_a_dataset_without_labels(tmp_path):
    message = (
        "train_dataset has no labels, only input_ids, attention_mask, and TaskLoss asks for them. Add a labels "
        "column, or leave TaskLoss out of losses to learn from the teacher alone."
    )
    with refused(message):
        distillation(tmp_path, classifier(), classifier(), data=rows(labels=False))
    trainer = distillation(tmp_path, classifier(), classifier(seed=1), [SoftTargets()], rows(labels=False))
    assert trainer.train().global_step == 3


def test_labels_that_the_collator_makes_are_labels(tmp_path):
    student, teacher = (tiny("bert", "ForMaskedLM", seed, num_hidden_layers=2) for seed in (0, 1))
    vocabulary = words()
    vocabulary.mask_token = "[UNK]"
    collator = DataCollatorForLanguageModeling(vocabulary, mlm_probability=0.5)
    trainer = distillation(tmp_path, student, teacher, None, rows(labels=False), data_collator=collator)
    trainer.train()
    assert trainer.state.log_history[0]["task_loss"] > 0


def test_a_dataset_with_a_transform_is_left_to_the_first_batch(tmp_path):
    texts = Dataset.from_dict({"text": ["word1 word2"] * 8, "mark": [0, 1] * 4})

    def encode(batch):
        return dict(vocabulary(batch["text"])) | {"labels": batch["mark"]}

    vocabulary = words()
    data = texts.with_transform(encode)
    trainer = distillation(tmp_path, classifier(), classifier(seed=1), None, data, remove_unused_columns=False)
    assert trainer.train().global_step == 3


class Rows(torch.utils.data.Dataset):
    def __init__(self) -> None:
        self.rows = rows().with_format("torch")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int):
        return self.rows[index]


@pytest.mark.parametrize("kind", ["Dataset", "DatasetDict", "IterableDataset", "torch"])
def test_every_kind_of_dataset_trains(tmp_path, kind):
    data = {"IterableDataset": lambda: rows().to_iterable_dataset(), "torch": Rows}.get(kind, rows)()
    sets = DatasetDict(dev=rows(8), test=rows(12)) if kind == "DatasetDict" else data
    settings = {"eval_strategy": "steps", "eval_steps": 3, "eval_on_start": True}
    trainer = distillation(tmp_path, classifier(), classifier(seed=1), None, data, eval_dataset=sets, **settings)
    trainer.train()
    logged = {name for entry in trainer.state.log_history for name in entry}
    prefixes = ["eval_dev", "eval_test"] if kind == "DatasetDict" else ["eval"]
    assert {f"{prefix}_{term}" for prefix in prefixes for term in ("loss", "soft_targets", "agreement")} <= logged


# --- the check reads one column, however the dataset is laid out

MANY = 40_000


def laid_out(kind: str) -> Dataset:
    data = rows(64)
    if kind == "plain":
        return concatenate_datasets([data] * (MANY // 64))
    if kind == "selected":
        return data.select(list(range(0, 64, 2)))
    if kind == "shuffled":
        return data.shuffle(seed=0)
    if kind == "filtered":
        return data.filter(lambda row: row["labels"] > 0)
    if kind == "large_list":
        return data.cast(Features(data.features | {"input_ids": LargeList(Value("int32"))}))
    if kind == "fixed":
        return data.cast(Features(data.features | {"input_ids": Sequence(Value("int64"), length=6)}))
    if kind in ("numpy", "torch", "pandas"):
        return data.with_format(kind, columns=["input_ids", "labels"])
    return data


KINDS = ["plain", "selected", "shuffled", "filtered", "large_list", "fixed", "numpy", "torch", "pandas"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_check_reads_every_layout(kind):
    data = laid_out(kind)
    longest, largest = 6, max(max(row) for row in data.with_format(None)["input_ids"])
    good = classifier(max_position_embeddings=longest, vocab_size=largest + 1)
    checks.check_dataset(data, {"student": good}, True, "data")
    with pytest.raises(ValueError, match=f"data has a sequence of {longest} tokens, and the student takes 5"):
        checks.check_dataset(data, {"student": classifier(max_position_embeddings=5)}, True, "data")
    with pytest.raises(ValueError, match=f"data has token id {largest}, and the student knows {largest} "):
        checks.check_dataset(data, {"student": classifier(vocab_size=largest)}, True, "data")


def test_the_check_reads_no_other_column(monkeypatch):
    """40,000 rows with a wide column are checked by one read of the ids, and never row by row."""
    read: list[list[str]] = []
    inner = Dataset._getitem

    def noting(self, key, **kwargs):
        read.append(self.column_names)
        return inner(self, key, **kwargs)

    monkeypatch.setattr(Dataset, "_getitem", noting)
    data = laid_out("plain").add_column("picture", ["x" * 50] * MANY).shuffle(seed=0)
    read.clear()
    checks.check_dataset(data, {"student": classifier(), "teacher": classifier()}, True, "data")
    assert read == [["input_ids"]]


def test_an_empty_dataset_and_none_are_let_through():
    checks.check_dataset(rows(4).select([]), {"student": classifier()}, True, "data")
    checks.check_dataset(None, {"student": classifier()}, True, "data")
    empty = Dataset.from_dict({"input_ids": [[], []], "labels": [0, 1]})
    checks.check_dataset(empty, {"student": classifier()}, True, "data")


# --- losses


def test_no_losses(tmp_path):
    with refused("losses is empty; pass at least one, or None for the task's default."):
        distillation(tmp_path, classifier(), classifier(), [])


@pytest.mark.parametrize(
    ("layers", "side", "layer"),
    [({2: 0}, "student", 2), ({-3: 0}, "student", -3), ({0: 4}, "teacher", 4)],
)
def test_layers_that_do_not_exist(tmp_path, layers, side, layer):
    depth = {"student": 2, "teacher": 4}[side]
    message = (
        f"HiddenMSE: {side} layer {layer} does not exist: BertForSequenceClassification has {depth} layers, "
        f"0 to {depth - 1}. Change layers={{student: teacher}}."
    )
    with refused(message):
        distillation(tmp_path, classifier(), classifier(num_hidden_layers=4), [HiddenMSE(layers)])


@pytest.mark.parametrize("loss", [AttentionKL, AttentionMSE])
def test_head_counts_that_differ(tmp_path, loss):
    student, teacher = classifier(num_attention_heads=2), classifier(seed=1)
    message = (
        f"{loss.__name__}: the student has 2 attention heads, the teacher 4. "
        f'Pass {loss.__name__}(heads="mean") to compare averages over heads.'
    )
    with refused(message):
        distillation(tmp_path, student, teacher, [loss()])
    trainer = distillation(tmp_path, student, teacher, [loss(heads="mean")])
    assert trainer.train().global_step == 3


def test_a_loss_function_of_the_trainer(tmp_path):
    with refused("compute_loss_func sees no teacher. Pass a Loss in losses, or override compute_loss."):
        distillation(tmp_path, classifier(), classifier(), compute_loss_func=lambda *_: None)


# --- the teacher


def test_no_teacher(tmp_path):
    message = "no teacher. Pass teacher=, a model in eval mode, a model id, or a hf_distill.teachers.Teacher."
    with refused(message):
        distillation(tmp_path, classifier(), None)


def test_a_teacher_without_weights(tmp_path):
    with torch.device("meta"):
        teacher = type(classifier())(classifier().config).eval()
    message = (
        "the teacher (BertForSequenceClassification) has no weights: it is on device meta. "
        "Load it with from_pretrained."
    )
    with refused(message):
        distillation(tmp_path, classifier(), teacher)


def test_a_teacher_in_train_mode(tmp_path):
    message = (
        "the teacher (BertForSequenceClassification) is in train mode, its dropout would teach noise. "
        "Call teacher.eval()."
    )
    with refused(message):
        distillation(tmp_path, classifier(), classifier().train())


def test_a_teacher_put_into_train_mode_later(tmp_path):
    class Holder(nn.Module):
        def __init__(self, teacher: nn.Module) -> None:
            super().__init__()
            self.teacher = teacher

    teacher = classifier(seed=1)
    trainer = distillation(tmp_path, classifier(), teacher)
    before = weights(trainer.model)
    Holder(teacher).train()
    with refused("the teacher was put into train mode after it was checked. Keep it out of other modules."):
        trainer.train()
    assert same(before, weights(trainer.model))


@pytest.mark.parametrize("shared", ["all of it", "the embeddings"])
def test_a_teacher_that_shares_weights_with_the_student(tmp_path, shared):
    student = classifier()
    teacher = student if shared == "all of it" else classifier(seed=1)
    teacher.set_input_embeddings(student.get_input_embeddings())
    message = (
        "student and teacher share the weight bert.embeddings.word_embeddings.weight, and a teacher is frozen. "
        "Pass teacher=copy.deepcopy(teacher)."
    )
    with refused(message):
        distillation(tmp_path, student, teacher)
    assert all(parameter.requires_grad for parameter in student.parameters())


def test_a_student_that_is_no_transformers_model(tmp_path):
    with refused("the student is a Linear; it must be a PreTrainedModel or a PeftModel."):
        distillation(tmp_path, nn.Linear(2, 2), classifier())


# --- what is not finite


def broken_teacher() -> nn.Module:
    teacher = classifier(seed=1)
    with torch.no_grad():
        teacher.classifier.weight[0, 0] = float("nan")
    return teacher


def stops(trainer, message: str) -> None:
    """The run ends with this error; nothing was logged as 0, and no checkpoint holds weights that are not finite."""
    with pytest.raises(FloatingPointError, match=exactly(message)):
        trainer.train()
    assert 0.0 not in [entry.get("loss") for entry in trainer.state.log_history]
    for checkpoint in Path(trainer.args.output_dir).glob("checkpoint-*"):
        found = type(trainer.model).from_pretrained(checkpoint)
        assert all(parameter.isfinite().all() for parameter in found.parameters())


@pytest.mark.parametrize("losses", [None, [TaskLoss()]])
def test_a_teacher_that_is_not_finite_stops_the_run(tmp_path, losses):
    trainer = distillation(tmp_path, classifier(), broken_teacher(), losses, save_strategy="steps", save_steps=1)
    stops(trainer, "the teacher's logits are not finite by step 1. Load it in float32, or check its weights.")
    assert not list(tmp_path.glob("checkpoint-*"))


class Breaks(SoftTargets):
    """Finite at first; its value or its gradient is not from the second step on."""

    def __init__(self, what: str = "value") -> None:
        super().__init__()
        self.what = what
        self.calls = 0

    def compare(self, student, teacher, batch):
        self.calls += 1
        value = super().compare(student, teacher, batch)
        if self.calls < 2:
            return value
        if self.what == "value":
            return value * float("inf")
        return value + 0.0 * (student.sum() * 0.0).sqrt()  # 0, with a gradient of 0 times infinity


CURE = "nothing was saved since. Lower learning_rate or the weight of that loss, or train in float32 or bfloat16."


@pytest.mark.parametrize(("what", "named"), [("value", "breaks"), ("gradient", "the gradient of the loss")])
def test_a_total_that_is_not_finite_stops_the_run(tmp_path, what, named):
    losses = [TaskLoss(), Breaks(what)]
    settings = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2}
    trainer = distillation(tmp_path, classifier(), classifier(seed=1), losses, **settings)
    stops(trainer, f"{named} is not finite by step 2; {CURE}")
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-1"]


def test_a_last_step_that_is_not_logged_is_looked_at_too(tmp_path):
    settings = {"max_steps": 2, "logging_steps": 100}
    trainer = distillation(tmp_path, classifier(), classifier(seed=1), [Breaks()], **settings)
    stops(trainer, f"breaks is not finite by step 2; {CURE}")


def test_a_script_whose_teacher_is_not_finite_exits_with_an_error(tmp_path):
    script = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "from pathlib import Path\n"
        "from runs import classifier, distillation\n"
        "from test_checks import broken_teacher\n"
        f"trainer = distillation(Path({str(tmp_path)!r}), classifier(), broken_teacher())\n"
        "trainer.train()\n"
        "trainer.save_model()\n"
    )
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert run.returncode == 1
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith("FloatingPointError: the teacher's logits are not finite by step 1."), run.stderr
    assert "'loss'" not in run.stdout
    assert not (tmp_path / "model.safetensors").exists()
