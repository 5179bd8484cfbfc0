"""The house rules of the package, read off its source with `ast`: no import goes up, some words live in one room."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "hf_distill"
FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {file.relative_to(PACKAGE).as_posix(): ast.parse(file.read_text(), file.name) for file in FILES}

# room: the rooms that it may import. A room is a module or a subpackage of hf_distill; within itself all is free
WORDS = {"signals", "tasks", "top_k", "relations"}
LOSSES = WORDS | {"batch", "heads", "recorded", "losses"}
MODELS = WORDS | {"batch", "derivatives", "anatomy", "vocabulary", "weights", "capture", "checks"}
# none of these knows the trainer
FACTS = {"recipe", "data", "metrics", "report", "card", "privacy", "hub", "config", "evaluation", "progress"}
ROUND_THE_TRAINER = {
    "attachment",
    "checkpoints",
    "profiling",
    "sampling",
    "pairing",
    "terms",
    "own_rows",
    "training_facts",
}
BELOW_TRAINER = (
    LOSSES | MODELS | FACTS | ROUND_THE_TRAINER | {"balance", "objective", "teachers", "students", "augment"}
)
MAY_IMPORT = {
    "signals": set(),
    "tasks": set(),
    "top_k": set(),
    "relations": set(),
    "uncomputed": set(),
    "heads": {"uncomputed"},
    "recorded": {"uncomputed"},
    "batch": WORDS | {"recorded"},
    "losses": LOSSES,
    "balance": set(),
    "objective": LOSSES | {"balance"},
    "derivatives": WORDS | {"batch"},
    "anatomy": WORDS | {"recorded"},
    "weights": set(),
    "vocabulary": WORDS | {"anatomy", "batch"},
    "capture": WORDS | {"anatomy", "batch", "derivatives", "heads", "vocabulary"},
    "checks": WORDS | {"anatomy", "batch"},
    "attachment": set(),
    "checkpoints": set(),
    "teachers": MODELS | LOSSES | {"objective"},
    "students": MODELS,
    "augment": MODELS | {"teachers"},
    "terms": WORDS | {"batch", "heads"},
    "own_rows": set(),
    "sampling": set(),
    "profiling": set(),
    **dict.fromkeys(FACTS | {"training_facts", "pairing"}, BELOW_TRAINER),
    "trainer": BELOW_TRAINER,
    "schemes": BELOW_TRAINER | {"trainer"},
    "run": BELOW_TRAINER | {"trainer", "schemes"},
    "demo": BELOW_TRAINER | {"trainer", "run", "schemes"},
    "cli": BELOW_TRAINER | {"trainer", "run", "schemes", "demo"},
}


def room(path: str) -> str:
    """The room of a file or dotted module: losses/rkd.py and losses.rkd are in losses."""
    return re.split(r"[/.]", path)[0]


def imported(path: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and room of every import from another room, also those inside functions and for types only."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            dotted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            here = ["hf_distill", *path.split("/")[:-1]]
            base = ".".join(here[: len(here) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            dotted = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in dotted:
            theirs = room(name.removeprefix("hf_distill."))
            if name.startswith("hf_distill.") and theirs not in (room(path), "__version__"):
                yield node.lineno, theirs


def strings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Every string that is code: all but docstrings and other bare strings."""
    bare = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in bare:
            yield node.lineno, node.value


def identifiers(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Every name: of variables, attributes, parameters, keywords, imports, functions and classes."""
    fields = {ast.Name: "id", ast.Attribute: "attr", ast.arg: "arg", ast.keyword: "arg", ast.alias: "name"}
    fields |= {ast.FunctionDef: "name", ast.ClassDef: "name"}
    for node in ast.walk(tree):
        if type(node) in fields:
            yield node.lineno, getattr(node, fields[type(node)]) or ""


def upward_imports(path: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    if path != "__init__.py":  # the door names what is behind it
        for line, theirs in imported(path, tree):
            if theirs not in MAY_IMPORT.get(room(path), set()):
                yield line, f"{room(path)} may not import {theirs}"


def minus_one_hundred(path: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """The ignored label is `batch.IGNORED` everywhere else."""
    for node in ast.walk(tree):
        if room(path) != "batch" and isinstance(node, ast.UnaryOp) and ast.unparse(node) == "-100":
            yield node.lineno, "-100 is hf_distill.batch.IGNORED"


def attention_masks(path: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Nobody but `batch` computes with the mask. `anatomy` has it as a parameter, because transformers calls its
    attention function with it; `data` and `trainer` have it as the name of a column, a string."""
    places = [] if room(path) in ("batch", "anatomy") else [identifiers(tree)]
    places += [] if room(path) in ("batch", "data", "trainer") else [strings(tree)]
    return ((line, word) for place in places for line, word in place if word == "attention_mask")


def hooks(path: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    for line, word in identifiers(tree):
        if path != "capture.py" and re.fullmatch(r"register_\w*hook\w*", word):
            yield line, f"{word}: hooks are for capture.py"


def foreign_code(path: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Nothing is unpickled, and no model brings code of its own."""
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names = [name.partition(".")[0] for name in names]
        if set(names) & {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}:
            yield node.lineno, "pickle: use safetensors or JSON"
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.load":
            yield node.lineno, "torch.load: use safetensors"
        risky = isinstance(node, ast.keyword) and node.arg in ("trust_remote_code", "allow_pickle")
        if risky and ast.unparse(node.value) != "False":
            yield node.lineno, ast.unparse(node)


PLANTED = [
    (upward_imports, "losses/rkd.py", "from hf_distill import anatomy"),
    (upward_imports, "losses/rkd.py", "def late():\n    from hf_distill.capture import Capture"),
    (upward_imports, "batch.py", "import hf_distill.losses.base"),
    (upward_imports, "metrics.py", "from .trainer import DistillationTrainer"),
    (upward_imports, "losses/rkd.py", "from ..objective import Objective"),
    (upward_imports, "teachers/model.py", "from .. import students"),
    (upward_imports, "trainer.py", "from hf_distill.cli import main"),
    (upward_imports, "objective.py", "if TYPE_CHECKING:\n    from hf_distill.teachers.base import Teacher"),
    (minus_one_hundred, "data.py", "labels = [-100] * 3"),
    (attention_masks, "losses/rkd.py", "mask = batch.inputs['attention_mask']"),
    (attention_masks, "capture.py", "def keep(attention_mask): pass"),
    (attention_masks, "trainer.py", "attention_mask = 1"),
    (attention_masks, "anatomy.py", "inputs['attention_mask']"),
    (hooks, "trainer.py", "model.register_forward_hook(print)"),
    (hooks, "anatomy.py", "tensor.register_hook(print)"),
    (foreign_code, "hub.py", "import pickle"),
    (foreign_code, "hub.py", "from joblib import load"),
    (foreign_code, "hub.py", "torch.load('x', weights_only=True)"),
    (foreign_code, "hub.py", "from_pretrained('x', trust_remote_code=True)"),
]
RULES = list(dict.fromkeys(rule for rule, _, _ in PLANTED))


@pytest.mark.parametrize("rule", RULES)
def test_the_house_keeps_the_rule(rule):
    found = [f"hf_distill/{path}:{line}: {what}" for path, tree in TREES.items() for line, what in rule(path, tree)]
    assert found == []


@pytest.mark.parametrize(("rule", "path", "source"), PLANTED)
def test_the_rule_sees_what_breaks_it(rule, path, source):
    assert len(list(rule(path, ast.parse(source)))) == 1


def test_every_room_has_its_place():
    """A new file at the top of the package says here what it may import."""
    assert sorted({room(path) for path in TREES} - set(MAY_IMPORT)) == ["__init__"]


def test_no_room_imports_itself_by_way_of_others():
    below = {
        name: {theirs for path, tree in TREES.items() if room(path) == name for _, theirs in imported(path, tree)}
        for name in MAY_IMPORT
    }
    while below:
        free = {name for name, theirs in below.items() if not theirs & set(below)}
        assert free, f"a circle among {sorted(below)}"
        below = {name: theirs for name, theirs in below.items() if name not in free}


def loaded_after(code: str) -> set[str]:
    """The top-level modules that a fresh python has after running the code."""
    code += "\nimport sys; print('MODULES', *{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("MODULES")[2].split())


def test_the_formulas_need_torch_and_not_transformers():
    loaded = loaded_after("import hf_distill, hf_distill.losses, hf_distill.objective")
    assert "torch" in loaded
    assert not loaded & {"transformers", "datasets", "accelerate", "peft", "evaluate"}


def test_the_door_alone_needs_nothing():
    assert not loaded_after("import hf_distill; dir(hf_distill)") & {"torch", "transformers"}


def test_help_is_quick_because_it_loads_neither_torch_nor_transformers():
    code = "import sys\nfrom hf_distill.cli import main\nsys.argv = ['hf-distill', '--help']\n"
    code += "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code"
    assert not loaded_after(code) & {"torch", "transformers"}


def test_no_file_knows_the_machine_that_it_was_written_on():
    absolute = re.compile(r"(?<![\w.:/*-])/(home|root|work|Users|mnt|opt|tmp|var|usr|etc)/(?!bin/env)\w")
    texts = [*FILES, *(PACKAGE / "templates").glob("*"), *ROOT.glob("*.md"), *ROOT.glob("*.toml"), *ROOT.glob("*.txt")]
    texts += [*ROOT.glob("examples/**/*.py"), *ROOT.glob("examples/**/*.yaml"), *ROOT.glob("model_cards/*.md")]
    found = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
        for file in texts
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if absolute.search(line)
    ]
    assert found == []


def test_no_file_is_longer_than_400_lines():
    sizes = {file.relative_to(ROOT).as_posix(): len(file.read_text().splitlines()) for file in FILES}
    assert [f"{file}: {size}" for file, size in sizes.items() if size > 400] == []


def test_every_file_has_a_test_file_that_mirrors_it():
    wanted = [
        f"tests/{folder}test_{name}.py"
        for folder, name in (re.fullmatch(r"((?:\w+/)*)(\w+)\.py", path).groups() for path in TREES)
        if name not in ("__init__", "__main__")
    ]
    assert [file for file in wanted if not (ROOT / file).exists()] == []


@pytest.mark.parametrize("word", ["utils", "util", "common", "helpers", "manager", "engine", "misc"])
def test_no_room_is_called_after_nothing(word):
    assert [path for path in TREES if word in re.split(r"[/._]", path)] == []
