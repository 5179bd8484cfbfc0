"""The examples, the recipes beside them and the samples of the README do what they say, on tiny inputs."""

from __future__ import annotations

import ast
import importlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from safetensors import safe_open
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    ViTForImageClassification,
)

from hf_distill import data, demo, recipe, students
from hf_distill.cli import app
from hf_distill.teachers import ModelTeacher

sys.path.insert(0, str(Path(__file__).parent))
from hub_server import HubServer
from models import tiny

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
BASE = "multilabel_distilbert"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py"))
# the examples of schemes: their options, and the stages that they train
SCHEMES: dict[str, tuple[list[str], list[str]]] = {
    "be_your_own_teacher": (["--exits", "0", "1"], ["student"]),
    "adversarial": (["--iterations", "3"], ["student"]),
    "data_free": (["--rows", "16", "--steps", "3", "--publish", "published"], ["round_1"]),
    "chain": (["--sizes", "5", "4"], ["assistant_5", "assistant_4", "student"]),
    "hints": (["--share", "0.25"], ["hint", "student"]),
    "iterated": (["--drop", "2"], ["blocks_4", "blocks_3"]),
    "two_stage": (["--samples", "2"], ["inside", "predictions"]),
    "augmented_self": (["--hide", "0.2"], ["student"]),
    "mutual": (["--students", "3"], ["student", "peer_2", "peer_3"]),
    "online": (["--both-ways"], ["student", "teacher"]),
    "progressive_self": (["--last-weight", "0.6"], ["student"]),
    "born_again": (
        ["--generations", "2", "--ensemble"],
        ["generation_1", "generation_2", "ensemble", "student_of_ensemble"],
    ),
    "multi_teacher_triplet": ([], ["teachers", "student"]),
}
OWN = {"own_scheme": (["--shares", "1", "0.5"], ["share_1", "share_0.5"])}
OTHERS = {"adapter_off_teacher", "cross_modal", "unlabelled"}  # not the base example and one thing more
TOKEN = "hf_" + "Canary7Canary7Canary7Canary7Canary"
TEXT = "my parcel is late and the app crashes when i pay thank you for a quick refund of two orders"
WORDS = TEXT.split()
LABELS = ["bug", "delivery", "praise", "refund"]


def write_rows(path: Path, rows: int) -> None:
    """Rows with one label or two, and one with a quotation mark that is never closed."""
    lines = ["text\tlabels"]
    for i in range(rows):
        text = " ".join(WORDS[(i + j) % len(WORDS)] for j in range(3 + i % 6))
        labels = dict.fromkeys([LABELS[i % 4], LABELS[(i * 3) % 4]])
        lines.append(f"{chr(34) if i == 1 else ''}{text}\t{','.join(labels)}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_teacher(path: Path, labels: list[str]) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "##s"]
    raw = Tokenizer(WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    raw.normalizer, raw.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    raw.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, mask_token="[MASK]", model_max_length=128, **special)
    head = {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
    problem = {"problem_type": "multi_label_classification"}
    teacher = tiny("bert", "ForSequenceClassification", vocab_size=len(words), num_hidden_layers=6, **head, **problem)
    teacher.save_pretrained(path)
    tokenizer.save_pretrained(path)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a user has it: teacher, data/train.tsv, data/dev.tsv."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "data").mkdir()
    write_rows(folder / "data" / "train.tsv", 20)
    write_rows(folder / "data" / "dev.tsv", 8)
    write_teacher(folder / "teacher", LABELS)
    return folder


@pytest.fixture
def home(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it to work in, with the examples importable as under `python examples/x.py`."""
    shutil.copytree(inputs, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return tmp_path


def tiny_run(*more: str) -> list[str]:
    files = ["--teacher", "teacher", "--train", "data/train.tsv", "--eval", "data/dev.tsv", "--output", "student"]
    return [*files, "--epochs", "4", "--learning-rate", "3e-3", *more]


def check_student(home: Path, printed: str, left: float = 0.95) -> None:
    """The figures are printed, the student loads as the printed line says, and it learned."""
    for name in ("eval_mean_average_precision", "eval_macro_f1", "eval_agreement"):
        assert re.search(rf"^{name} +[01]\.\d+ -> [01]\.\d+$", printed, re.MULTILINE), printed
    line = re.search(r"^Load it: (.*)$", printed, re.MULTILINE)
    assert line is not None
    student = eval(line[1], {"AutoModelForSequenceClassification": AutoModelForSequenceClassification})
    assert type(student).__name__ == "DistilBertForSequenceClassification"
    assert student.config.n_layers == 3
    assert list(student.config.id2label.values()) == LABELS
    with safe_open(home / "student" / "model.safetensors", "pt") as file:
        assert set(file.keys()) == set(student.state_dict())  # no projection, no adapter
    assert not (home / "student" / "training_args.bin").exists()

    teacher = AutoModelForSequenceClassification.from_pretrained(home / "teacher")
    untrained = students.from_teacher(teacher, architecture="distilbert", layers=[0, 2, 4])
    assert not torch.equal(student.classifier.weight, untrained.classifier.weight)
    [(before, after)] = re.findall(r"^eval_loss +(\S+) -> (\S+)$", printed, re.MULTILINE)
    assert float(after) < left * float(before)


@pytest.mark.parametrize(
    "name",
    [
        "mean_teacher",
        BASE,
        "subclass_trainer",
        "custom_loss",
        "cached_teacher",
        "ensemble_teacher",
        "lora_student",
        "noisy_teacher",
        "quantized_teacher",
        "remote_teacher",
        "selective_teacher",
    ],
)
def test_an_example_leaves_a_student_that_loads(name: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    importlib.import_module(name).main(tiny_run())
    check_student(home, capsys.readouterr().out, 0.98 if name == "remote_teacher" else 0.95)  # no layers are matched


@pytest.mark.parametrize("name", [*SCHEMES, *OWN])
def test_the_example_of_a_scheme_tells_its_stages_and_leaves_a_student_that_loads(
    name: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options, stages = (SCHEMES | OWN)[name]
    importlib.import_module(name).main([*tiny_run(*options), "--epochs", "1"])
    printed = capsys.readouterr().out
    told = json.loads((home / "student" / "stages.json").read_text())["stages"]
    assert [stage["name"] for stage in told] == stages
    assert all("mean_average_precision" in stage["metrics"] for stage in told)
    line = re.search(r"^Load it: (.*)$", printed, re.MULTILINE)
    assert line is not None
    student = eval(line[1], {"AutoModelForSequenceClassification": AutoModelForSequenceClassification})
    assert list(student.config.id2label.values()) == LABELS
    assert len(student.distilbert.transformer.layer) == 3


def test_the_example_of_specialists_takes_rows_with_one_label(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, count in (("train", 40), ("dev", 16)):
        lines = [f"{' '.join(WORDS[(i + j) % len(WORDS)] for j in range(4))}\t{LABELS[i % 4]}" for i in range(count)]
        lines.append(f"{WORDS[0]}\t{LABELS[0]},{LABELS[1]}")
        (home / "data" / f"{name}.tsv").write_text("\n".join(["text\tlabels", *lines]) + "\n")
    importlib.import_module("specialists").main([*tiny_run("--count", "2"), "--epochs", "1"])
    assert 'from_pretrained("student")' in capsys.readouterr().out
    told = json.loads((home / "student" / "stages.json").read_text())["stages"]
    assert [stage["name"] for stage in told][-3:] == ["generalist", "together", "student"]
    assert told[0]["name"] == "specialist_1"
    assert all("accuracy" in stage["metrics"] for stage in told[-3:])
    student = AutoModelForSequenceClassification.from_pretrained(home / "student")
    assert list(student.config.id2label.values()) == LABELS


@pytest.mark.parametrize("name", [*SCHEMES, "specialists"])
def test_the_example_of_a_scheme_is_short_and_says_how_it_is_run(name: str) -> None:
    source = (EXAMPLES / f"{name}.py").read_text()
    assert f"python examples/{name}.py" in (ast.get_docstring(ast.parse(source)) or "")
    assert f"schemes.{name}(plan" in source
    assert len(source.splitlines()) < 60


def test_without_arguments_a_teacher_is_made_of_the_shipped_messages(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = []

    def fine_tune(encoder: Path, output: Path) -> None:
        rows = data.load(recipe.DatasetSpec(path=str(output / "data" / "*.tsv")))
        assert (encoder / "config.json").exists()
        write_teacher(output / "teacher", data.label_names_of(rows, "multi_label"))
        made.append(output)

    monkeypatch.setattr(demo, "fine_tune_teacher", fine_tune)
    example = importlib.import_module(BASE)
    options = example.parser("").parse_args([])
    for _ in range(2):
        teacher, _, rows = example.load(options)
    assert made == [Path("out/demo")]
    assert teacher.config.num_labels == 10
    assert {split: len(part) for split, part in rows.items()} == {"train": 1060, "validation": 260}


def test_the_subclass_hides_words_in_training_only(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[bool, list[torch.Tensor]] = {True: [], False: []}
    example = importlib.import_module("subclass_trainer")
    observe = ModelTeacher.observe

    def noted(self: ModelTeacher, batch: Any) -> Any:
        seen[torch.is_grad_enabled()].append(batch.inputs["input_ids"].flatten())
        return observe(self, batch)

    monkeypatch.setattr(ModelTeacher, "observe", noted)
    example.main(tiny_run("--hide", "0.5"))
    tokenizer = AutoTokenizer.from_pretrained(home / "teacher")
    trained, evaluated = torch.cat(seen[True]), torch.cat(seen[False])
    hidden = (trained == tokenizer.mask_token_id).sum() / (trained >= tokenizer.mask_token_id).sum()
    assert hidden == pytest.approx(0.5, abs=0.15)
    assert (trained == tokenizer.cls_token_id).sum() == 4 * 20
    assert not (evaluated == tokenizer.mask_token_id).any()


def test_the_cached_teacher_is_asked_once_and_not_in_a_second_run(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ModelTeacher, "observe", lambda self, batch: pytest.fail("the teacher was asked live"))
    example = importlib.import_module("cached_teacher")
    example.main(tiny_run())
    first = capsys.readouterr().out
    example.main(tiny_run())
    second = capsys.readouterr().out
    assert "the teacher answered" in first
    assert "the teacher answered" not in second
    lines = [[line for line in printed.splitlines() if "->" in line] for printed in (first, second)]
    assert lines[0] == lines[1] != []


def test_the_custom_loss_is_the_brier_score_of_the_probabilities() -> None:
    sys.path.insert(0, str(EXAMPLES))
    brier = importlib.import_module("custom_loss").brier
    probabilities = torch.tensor([[0.5, 0.25], [0.9, 0.2]])
    teacher = torch.tensor([[0.5, 0.75], [0.8, 0.5]])
    found = brier(probabilities.logit(), teacher.logit())
    assert found.tolist() == pytest.approx([0.25, 0.01 + 0.09])


def test_a_recipe_names_the_custom_loss_as_its_docstring_says(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLES)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(EXAMPLES)])
    monkeypatch.delitem(sys.modules, "custom_loss", raising=False)
    documentation = ast.get_docstring(ast.parse((EXAMPLES / "custom_loss.py").read_text())) or ""
    [lines] = re.findall(r"^    (losses:\n(?:      .*\n)+)", documentation, re.MULTILINE)
    rest = "teacher: {model: teacher}\nstudent: {from: teacher}\ndataset: {path: data/train.tsv}\n"
    (home / "my_recipe.yaml").write_text(rest + lines)
    with pytest.raises(recipe.RecipeError, match="--allow-custom-code"):
        recipe.load(home / "my_recipe.yaml")
    [loss] = recipe.build_losses(recipe.load(home / "my_recipe.yaml", allow_custom_code=True), True) or []
    assert (type(loss).__name__, loss.config, loss.weight) == ("Brier", {"temperature": 2.0}, 0.5)


def test_lora_trains_adapters_projections_and_head_alone(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    importlib.import_module("lora_student").main(tiny_run("--rank", "2"))
    assert "trainable params:" in capsys.readouterr().out
    teacher = AutoModelForSequenceClassification.from_pretrained(home / "teacher")
    start = students.from_teacher(teacher, architecture="distilbert", layers=[0, 2, 4]).state_dict()
    saved = AutoModelForSequenceClassification.from_pretrained(home / "student").state_dict()
    changed = {name.split(".layer.")[-1] for name in saved if not torch.equal(saved[name], start[name])}
    attention = {f"{block}.attention.{part}.weight" for block in range(3) for part in ("q_lin", "v_lin")}
    head = {f"{part}.{kind}" for part in ("pre_classifier", "classifier") for kind in ("weight", "bias")}
    assert changed == attention | head
    with safe_open(home / "student" / "adapter" / "adapter_model.safetensors", "pt") as file:
        assert not [name for name in file.keys() if "objective" in name]  # noqa: SIM118  # it is no dict


def test_a_model_goes_on_learning_held_by_itself_without_adapters(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    importlib.import_module("adapter_off_teacher").main(tiny_run("--rank", "2"))
    printed = capsys.readouterr().out
    start = AutoModelForSequenceClassification.from_pretrained(home / "teacher").state_dict()
    saved = AutoModelForSequenceClassification.from_pretrained(home / "student").state_dict()
    changed = {name.rpartition(".")[0].split(".")[-1] for name in saved if not torch.equal(saved[name], start[name])}
    assert changed == {"query", "value", "classifier"}
    [(before, after)] = re.findall(r"^eval_agreement +(\S+) -> (\S+)$", printed, re.MULTILINE)
    assert float(before) == 1.0 > float(after)  # it began as its own teacher, and left it


@pytest.mark.parametrize("labelled", ["0", "8"])
def test_a_student_learns_from_what_is_thought_of_texts_alone(
    labelled: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    importlib.import_module("unlabelled").main(tiny_run("--confidence", "0.6", "0", "--labelled", labelled))
    assert 'from_pretrained("student")' in capsys.readouterr().out
    stages = json.loads((home / "student" / "stages.json").read_text())["stages"]
    taught = [(stage["name"], stage["teacher"]) for stage in stages]
    first = "SelectiveTeacher(teacher, wrong=1.0, min_confidence=0.6)"
    assert taught == [("pass_1_above_0.6", first), ("pass_2_above_0", "teacher")]
    assert AutoModelForSequenceClassification.from_pretrained(home / "student").config.n_layers == 3


def test_pictures_are_learned_from_words(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"name": WORDS[i % 9], "keywords": WORDS[i % 5 :][:3], "category": "ab"[i % 2], "split": split}
        for split, count in (("train", 16), ("test", 6))
        for i in range(count)
    ]
    (home / "pairs").mkdir()
    (home / "pairs" / "meta.json").write_text(json.dumps(rows))
    pictures = np.random.default_rng(0).integers(0, 256, (len(rows), 32, 32, 3), np.uint8)
    np.savez(home / "pairs" / "images_32.npz", twitter=pictures)
    plain = tiny("bert", "Model", vocab_size=6 + len(WORDS), num_hidden_layers=2)
    plain.save_pretrained(home / "encoder")
    AutoTokenizer.from_pretrained(home / "teacher").save_pretrained(home / "encoder")
    few = ["--pairs", "pairs", "--epochs", "1", "--output"]
    importlib.import_module("emoji_pairs").main([*few, "of_words", "--encoder", "encoder"])
    importlib.import_module("cross_modal").main([*few, "student", "--teacher", "of_words"])
    printed = capsys.readouterr().out
    assert len(re.findall(r"^(?:teacher, of words|student, of pictures): accuracy [01]\.\d+$", printed, re.M)) == 2
    assert ViTForImageClassification.from_pretrained(home / "student").config.id2label == {0: "a", 1: "b"}


def test_push_to_hub_pushes_and_loads_back(home: Path, tmp_path: Path) -> None:
    with HubServer(TOKEN) as hub:
        run = subprocess.run(
            [sys.executable, str(EXAMPLES / "push_to_hub.py"), *tiny_run("--hub-id", "my-student")],
            capture_output=True,
            text=True,
            cwd=home,
            env=hub.client_env(tmp_path, token=TOKEN, PYTHONPATH=str(ROOT)),
            timeout=250,
        )
        assert run.returncode == 0, run.stderr
        assert not hub.unknown
        assert len(hub.commits("tester/my-student")) == 1
        assert hub.repos["tester/my-student"].private
        files = hub.files("tester/my-student")
        assert TOKEN.encode() not in hub.all_bytes()
    assert set(files) == {"README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert files["model.safetensors"] == (home / "student" / "model.safetensors").read_bytes()
    assert 'pipeline("text-classification", model="tester/my-student"' in run.stdout
    found = re.findall(r"^(\w+) +(0\.\d+)$", run.stdout, re.MULTILINE)
    assert len(found) == 3
    assert {label for label, _ in found} < set(LABELS)


def statements(name: str) -> tuple[list[str], set[str]]:
    """What an example's main calls, in order, and the arguments that its trainer gets."""
    tree = ast.parse((EXAMPLES / f"{name}.py").read_text())
    trainers = {"DistillationTrainer"} | {
        node.name for node in tree.body if isinstance(node, ast.ClassDef) and node.name.endswith("Trainer")
    }
    [main] = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main"]
    calls = sorted(
        (node for node in ast.walk(main) if isinstance(node, ast.Call)),
        key=lambda node: (node.lineno, node.col_offset),
    )
    names = [ast.unparse(call.func) for call in calls]
    [trainer] = [call for call, called in zip(calls, names, strict=True) if called in trainers]
    names = ["Trainer" if called in trainers else called for called in names]
    return names, {str(keyword.arg) for keyword in trainer.keywords}


@pytest.mark.parametrize(
    "name", [name for name in NAMES if name not in {BASE, "specialists", "emoji_pairs", *SCHEMES, *OWN, *OTHERS}]
)
def test_an_example_is_the_base_and_one_thing(name: str) -> None:
    steps = ["load", "students.from_teacher", "Trainer", "trainer.evaluate", "trainer.train", "show"]
    steps += ["trainer.evaluate", "trainer.push_to_hub" if name == "push_to_hub" else "trainer.save_model", "print"]
    base_arguments = statements(BASE)[1]
    called, arguments = statements(name)
    rest = iter(called)
    assert all(step in rest for step in steps), called
    assert base_arguments <= arguments
    source = (EXAMPLES / f"{name}.py").read_text()
    assert f"python examples/{name}.py" in (ast.get_docstring(ast.parse(source)) or "")
    assert len(source.splitlines()) <= 75


@pytest.mark.parametrize("name", sorted([*OTHERS, *OWN]))
def test_another_example_is_short_and_says_how_it_is_run(name: str) -> None:
    source = (EXAMPLES / f"{name}.py").read_text()
    assert f"python examples/{name}.py" in (ast.get_docstring(ast.parse(source)) or "")
    assert len(source.splitlines()) < 60


def test_adversarial_shows_what_moves(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    importlib.import_module("adversarial").main(tiny_run("--iterations", "3"))
    found = re.findall(r"right with probability (\S+) -> (\S+)$", capsys.readouterr().out, re.MULTILINE)
    assert len(found) == 8
    assert all(float(after) <= float(before) for before, after in found)  # tiny moves of a tiny teacher


@pytest.mark.parametrize(("source", "steps"), [("embeddings", ["--steps", "3"]), ("random_tokens", [])])
def test_data_free_trains_on_no_text(source: str, steps: list[str], home: Path) -> None:
    importlib.import_module("data_free").main(tiny_run("--source", source, "--rows", "16", *steps))
    rows = datasets.load_from_disk(str(home / "student" / "inputs_1"))
    assert len(rows) == 16
    assert ("inputs_embeds" in rows.column_names) == (source == "embeddings")


def test_every_example_is_run_here() -> None:
    known = {BASE, "cached_teacher", "custom_loss", "lora_student", "push_to_hub", "subclass_trainer"}
    known |= {"ensemble_teacher", "mean_teacher", "noisy_teacher", "quantized_teacher"}
    known |= {"remote_teacher", "selective_teacher"}
    known |= {"specialists", "emoji_pairs", *SCHEMES, *OWN, *OTHERS}  # the pairs are of cross_modal
    assert set(NAMES) == known


@pytest.mark.parametrize("path", sorted((EXAMPLES / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_of_the_examples_is_valid(path: Path) -> None:
    checked = recipe.load(path)
    recipe.build_config(checked)
    assert recipe.build_losses(checked)


def blocks(text: str, *languages: str) -> list[str]:
    """The fenced blocks of these languages, in order."""
    fenced = re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [code for language, code in fenced if language in languages]


def test_the_python_samples_of_the_readme_run_in_order(home: Path) -> None:
    """All but those that begin with `# not run`, in one namespace, where a teacher and data are there."""
    samples = blocks((ROOT / "README.md").read_text(encoding="utf-8"), "python")
    samples = [code for code in samples if not code.startswith("# not run")]
    assert samples, "README.md has no Python sample"
    example = importlib.import_module(BASE)
    teacher, tokenizer, rows = example.load(example.parser("").parse_args(tiny_run()))
    names = {"teacher": teacher, "tokenizer": tokenizer, "__name__": "readme"}
    names |= {"train_dataset": rows["train"], "eval_dataset": rows["validation"]}
    for code in samples:
        exec(compile(code, "README.md", "exec"), names)


def test_the_recipes_of_the_readme_are_valid(home: Path) -> None:
    recipes = [text for text in blocks((ROOT / "README.md").read_text(encoding="utf-8"), "yaml") if "teacher:" in text]
    assert recipes, "README.md has no recipe"
    for text in recipes:
        Path("recipe.yaml").write_text(text, encoding="utf-8")
        checked = recipe.load("recipe.yaml", allow_custom_code=True)
        recipe.build_config(checked)
        assert recipe.build_losses(checked, allow_custom_code=True)


def test_what_the_readme_names_exists() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = {str(each.name or each.callback.__name__) for each in app.registered_commands if each.callback}
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert {"train"} <= set(re.findall(r"(?:^|`)hf-distill (\w+)", text, re.MULTILINE)) <= commands
    assert {"demo", "test"} <= set(re.findall(r"(?:^|`)make (\w+)", text, re.MULTILINE)) <= targets
    assert not [name for name in re.findall(r"examples/[\w/]+\.(?:py|yaml)", text) if not (ROOT / name).exists()]
