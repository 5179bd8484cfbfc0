"""`push_to_hub=True` in the config, against a real server on 127.0.0.1: what goes up, and how a push fails.

A client process reads HF_ENDPOINT when it starts and takes seconds to start, so each one does several jobs.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hub_server import HubServer, card_errors
from huggingface_hub import ModelCard

ROOT = Path(__file__).parents[1]
TOKEN = "hf_" + "Canary7Canary7Canary7Canary7Canary"  # in HF_TOKEN or hub_token, and nowhere else
READ_ONLY = "hf_" + "ReadOnlyReadOnlyReadOnlyReadOnly12"
STUDENT = {"README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}

CLIENT = """
import json, logging, sys
sys.path.insert(0, "tests")
from runs import classifier, distillation, rows, words
from hf_distill import hub

jobs, folder = json.load(sys.stdin), sys.argv[1]
patience = hub._Patience.__init__
hub._Patience.__init__ = lambda self, attempts, wait, *rest: patience(self, attempts, 0.01, *rest)  # tries at once
warned = []
logging.getLogger("hf_distill.hub.publishing").addHandler(type("Note", (logging.Handler,), {
    "emit": lambda self, record: warned.append(record.getMessage())
})())

def do(job, done):
    settings = {"processing_class": words(), "save_strategy": "steps", "save_steps": 2, "push_to_hub": True}
    settings |= job.get("settings", {})
    labels = {0: "anger", 1: "joy", 2: "fear"}
    student, teacher = (classifier(seed=seed, id2label=labels) for seed in (0, 1))
    data = rows(length=job.get("length", 6))
    trainer = distillation(f"{folder}/{job['name']}", student, teacher, None, data, **settings)
    done.append(["made", trainer.hub_model_id])
    if job.get("train", True):
        trainer.train()
        done.append(["trained", None])
    for name, arguments in job.get("then", []):
        done.append([name, getattr(trainer, name)(**arguments)])

for job in jobs:
    done = []
    warned.clear()
    try:
        do(job, done)
    except (hub.HubError, ValueError) as error:
        if job.get("uncaught"):
            raise
        done.append([type(error).__name__, str(error)])
    print("@", json.dumps({"name": job["name"], "done": done, "warned": warned}), flush=True)
"""


@dataclass
class Client:
    """A client process that ended: its server, where it wrote, and {job: {what was done: its value}}."""

    server: HubServer
    folder: Path
    code: int
    error: str
    done: dict[str, dict[str, Any]]
    warned: dict[str, list[str]]


def client(server: HubServer, home: Path, *jobs: dict[str, Any], token: str | None = TOKEN) -> Client:
    folder = home / "runs"
    for job in jobs:
        (folder / job["name"]).mkdir(parents=True)
        (folder / job["name"] / ".env").write_text("KEEP=mine")
    run = subprocess.run(
        [sys.executable, "-c", CLIENT, str(folder)],
        input=json.dumps(jobs),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=server.client_env(home, token=token, PYTHONPATH=str(ROOT)),
        timeout=280,
    )
    assert TOKEN not in run.stdout + run.stderr
    assert not server.unknown
    found = [json.loads(line[2:]) for line in run.stdout.splitlines() if line.startswith("@ ")]
    done = {each["name"]: dict(each["done"]) for each in found}
    return Client(server, folder, run.returncode, run.stderr, done, {each["name"]: each["warned"] for each in found})


# --- what goes up


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    by_hand = {"private": True, "revision": "trial", "commit_message": "By hand"}
    with HubServer(TOKEN) as server:
        found = client(
            server,
            tmp_path_factory.mktemp("published"),
            {"name": "quiet", "settings": {"push_to_hub": False}, "then": [["save_model", {}]]},
            {"name": "at_end", "settings": {"hub_strategy": "end"}, "then": [["save_model", {}]]},
            {
                "name": "each_save",
                "settings": {
                    "hub_strategy": "every_save",
                    "hub_model_id": "team/student",
                    "hub_private_repo": True,
                },
                "then": [["push_to_hub", {"commit_message": "The end"}]],
            },
            {
                "name": "by_hand",
                "settings": {"push_to_hub": False},
                "train": False,
                "then": [["push_to_hub", by_hand]],
            },
        )
        assert found.code == 0, found.error
        yield found


def test_at_the_end_the_student_and_its_card_go_up_and_nothing_else(published):
    server, folder = published.server, published.folder / "at_end"
    assert published.done["at_end"]["made"] == "tester/at_end"
    assert not server.repos["tester/at_end"].private
    assert server.commits("tester/at_end") == ["Model save"]
    files = server.files("tester/at_end")
    assert set(files) == STUDENT
    assert files["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert (folder / "checkpoint-2" / "optimizer.pt").exists()
    assert (folder / ".env").exists()


def test_the_card_is_there_and_valid(published):
    text = published.server.files("tester/at_end")["README.md"].decode()
    assert not card_errors(text)
    card = ModelCard(text)
    assert card.data.pipeline_tag == "text-classification"
    assert card.data.library_name == "transformers"
    assert "SoftTargets" in card.text


def test_every_save_goes_up_as_a_commit_of_its_own(published):
    server = published.server
    assert published.done["each_save"]["made"] == "team/student"
    assert server.repos["team/student"].private
    assert server.commits("team/student")[:2] == ["Training in progress, step 2", "Training in progress, step 3"]
    first, second = server.repos["team/student"].branches["main"][1:3]
    assert first.tree["model.safetensors"].sha256 != second.tree["model.safetensors"].sha256
    for commit in server.repos["team/student"].branches["main"][1:]:
        assert set(commit.tree) - {".gitattributes"} == STUDENT
        assert not card_errors(commit.tree["README.md"].content.decode())
    last = (published.folder / "each_save" / "checkpoint-3" / "model.safetensors").read_bytes()
    assert server.files("team/student")["model.safetensors"] == last
    assert published.done["each_save"]["push_to_hub"].startswith(f"{server.endpoint}/team/student/commit/")


def test_a_push_by_hand_may_say_more(published):
    server = published.server
    assert published.done["by_hand"]["made"] is None
    assert server.repos["tester/by_hand"].private
    assert server.commits("tester/by_hand", "trial") == ["By hand"]
    assert server.commits("tester/by_hand") == []


def test_no_other_repository_is_made(published):
    """Neither for what is not pushed, nor under another name before the training than after it."""
    assert set(published.server.repos) == {"tester/at_end", "team/student", "tester/by_hand"}


def test_the_token_is_nowhere(published, tokenless):
    for found in (published, tokenless):
        assert TOKEN.encode() not in found.server.all_bytes()
        files = [path for path in found.folder.parent.rglob("*") if path.is_file()]
        assert len(files) > 20
        assert not [path for path in files if TOKEN.encode() in path.read_bytes()]
        assert not list(found.folder.rglob("training_args.bin"))


# --- whose token


@pytest.fixture(scope="module")
def tokenless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with HubServer(TOKEN, READ_ONLY) as server:
        found = client(
            server,
            tmp_path_factory.mktemp("tokenless"),
            {"name": "nothing"},
            {"name": "read", "settings": {"hub_token": READ_ONLY}},
            {
                "name": "write",
                "settings": {"hub_token": TOKEN, "hub_strategy": "every_save"},
                "then": [["save_model", {}]],
            },
            token=None,
        )
        assert found.code == 0, found.error
        yield found


def test_the_token_of_the_config_is_used(tokenless):
    assert set(tokenless.server.repos) == {"tester/write"}
    assert tokenless.server.commits("tester/write")[0] == "Training in progress, step 2"
    assert set(tokenless.server.files("tester/write")) == STUDENT


def test_a_token_that_may_not_write_is_known_before_step_1(tokenless):
    assert tokenless.done["nothing"] == {
        "HubError": "no Hub token: set HF_TOKEN to a token with write access, or run `hf auth login`"
    }
    assert tokenless.done["read"] == {
        "HubError": "the Hub refused making the repository for read (403): set HF_TOKEN to a valid token with write "
        "access to read, or run `hf auth login`"
    }


# --- how a push fails


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with HubServer(TOKEN) as server:
        server.add_file("tester/public", "notes.txt", b"old")
        server.fail_next("tester/late/commit/", times=100, status=500, message="disk full")
        server.fail_next("tester/between/commit/", times=5)
        server.fail_next("tester/last/commit/", times=100)
        found = client(
            server,
            tmp_path_factory.mktemp("failing"),
            {"name": "public", "settings": {"hub_private_repo": True}},
            {"name": "long", "length": 600},
            {"name": "late", "settings": {"hub_strategy": "end"}, "then": [["save_model", {}]]},
            {"name": "between", "settings": {"hub_strategy": "every_save"}},
            {"name": "last", "settings": {"hub_strategy": "every_save"}, "uncaught": True},
        )
        yield found


def test_a_public_repository_is_no_private_one(failing):
    (error,) = failing.done["public"].values()
    assert error.startswith("tester/public exists and is public: make it private on the Hub first")
    assert set(failing.server.files("tester/public")) == {"notes.txt"}


def test_what_is_refused_before_step_1_leaves_no_repository(failing):
    (error,) = failing.done["long"].values()
    assert error.startswith("train_dataset has a sequence of 600 tokens")
    assert "tester/long" not in failing.server.repos


def test_a_push_at_the_end_that_fails_is_an_error(failing):
    assert failing.done["late"] == {
        "made": "tester/late",
        "trained": None,
        "HubError": "the commit failed 5 times, at last with: 500 disk full; push again later, what is there already "
        "is not sent twice",
    }
    assert failing.server.commits("tester/late") == []
    assert {"model.safetensors", "README.md"} <= {path.name for path in (failing.folder / "late").iterdir()}


def test_a_push_in_between_that_fails_ends_no_training(failing):
    """The Hub is away at step 2 and back at step 3: warned of, trained on, pushed."""
    assert failing.done["between"] == {"made": "tester/between", "trained": None}
    checkpoint = failing.folder / "between" / "checkpoint-2"
    (warning,) = failing.warned["between"]
    assert warning.startswith(f"{checkpoint} is saved and not on the Hub: the commit failed 5 times")
    assert failing.server.commits("tester/between") == ["Training in progress, step 3"]


def test_a_last_push_that_fails_ends_the_process_with_one_clear_line(failing):
    assert failing.code == 1
    checkpoint = failing.folder / "last" / "checkpoint-3"
    last_line = failing.error.strip().splitlines()[-1]
    assert last_line.startswith(
        f"hf_distill.hub.HubError: {checkpoint} is saved and not on the Hub: the commit failed"
    )
    assert (checkpoint / "model.safetensors").exists()
    assert failing.server.commits("tester/last") == []
