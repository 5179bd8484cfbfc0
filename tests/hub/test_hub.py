"""What leaves the machine, and that it arrives once: `hub.stage` and `hub.push` against a real server on 127.0.0.1."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from hf_distill.hub import HubError, stage

sys.path.insert(0, str(Path(__file__).parents[1]))
from hub_server import HubServer
from saved_folder import CARD, TOKEN, contents, small_folder

ROOT = Path(__file__).parents[2]
READ_ONLY = "hf_" + "ReadOnlyReadOnlyReadOnlyReadOnly12"
REPO = "tester/student"
LABELS = ["refund", "delivery", "praise", "bug"]
TEXT = "my parcel is late and the app crashes"

PUSH = """
import json, sys
from hf_distill.hub import HubError, push
for call in json.load(sys.stdin):
    lines = []
    try:
        print(json.dumps({"url": push(**call, progress=lines.append), "lines": lines}))
    except HubError as error:
        print(json.dumps({"error": str(error), "lines": lines}))
assert "transformers" not in sys.modules
"""

LOAD = """
import json, sys
sys.modules["hf_distill"] = None  # from here on, importing it fails as where it is not installed
from transformers import AutoModelForSequenceClassification, pipeline
repo, text = sys.argv[1:]
model = AutoModelForSequenceClassification.from_pretrained(repo)
scores = pipeline("text-classification", model=repo, top_k=None)([text])[0]
print(json.dumps({"labels": model.config.id2label, "problem": model.config.problem_type, "scores": scores,
                  "weights": {name: float(tensor.double().sum()) for name, tensor in model.state_dict().items()}}))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return small_folder(tmp_path / "saved")


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer(TOKEN, READ_ONLY) as server:
        yield server
        assert not server.unknown


def push(hub: HubServer, home: Path, *calls: dict[str, Any], token: str | None = TOKEN) -> list[dict[str, Any]]:
    """Push in one client process, call after call, and return what each said; quick retries unless told otherwise."""
    asked = [{"repo_id": REPO, "wait": 0.05, **call, "source": str(call["source"])} for call in calls]
    run = subprocess.run(
        [sys.executable, "-c", PUSH],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=hub.client_env(home, token=token, PYTHONPATH=str(ROOT)),
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    assert TOKEN not in run.stdout + run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


def test_a_folder_that_must_not_be_published_is_an_error_of_the_hub(folder: Path, tmp_path: Path) -> None:
    assert stage(str(folder), str(tmp_path / "publish")) == ["README.md", "config.json", "model.safetensors"]
    with pytest.raises(HubError, match="not an empty folder"):
        stage(folder, folder)


# --- push


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    """A saved multi-label student among the litter of a run, and its scores for TEXT, computed by hand."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import DistilBertConfig, DistilBertForSequenceClassification, PreTrainedTokenizerFast

    path = tmp_path_factory.mktemp("run") / "out"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(TEXT.split()), "##s", "refund"]
    raw = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    raw.normalizer, raw.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    raw.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    names = ["input_ids", "attention_mask"]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, mask_token="[MASK]", model_input_names=names, model_max_length=32, **special
    )
    torch.manual_seed(0)
    config = DistilBertConfig(
        vocab_size=len(words), dim=16, n_heads=2, n_layers=2, hidden_dim=32, max_position_embeddings=32, num_labels=4,
        id2label=dict(enumerate(LABELS)), label2id={name: i for i, name in enumerate(LABELS)},
        problem_type="multi_label_classification",
    )  # fmt: skip
    model = DistilBertForSequenceClassification(config).eval()
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    (path / "README.md").write_text(CARD)
    (path / "recipe.yaml").write_text("task: multi_label\n")
    (path / "training_args.bin").write_bytes(TOKEN.encode())
    (path / ".env").write_text(f"HF_TOKEN={TOKEN}\n")
    (path / "run.log").write_text(f"Authorization: Bearer {TOKEN}\n")
    with torch.no_grad():
        scores = model(**tokenizer(TEXT, return_tensors="pt")).logits.sigmoid()[0].tolist()
    return path, dict(zip(LABELS, scores, strict=True))


def test_push_then_load_where_hf_distill_is_not_installed(
    hub: HubServer, student: tuple[Path, dict[str, float]], tmp_path: Path
) -> None:
    source, scores = student
    [said] = push(hub, tmp_path / "writer", {"source": source})
    assert said["url"].startswith(f"{hub.endpoint}/{REPO}/commit/")
    assert said["lines"][-1] == f"published: {said['url']}"
    staged = tmp_path / "staged"
    stage(source, staged)
    assert hub.files(REPO) == contents(staged)
    assert {"model.safetensors", "tokenizer.json", "recipe.yaml"} <= set(hub.files(REPO))
    assert TOKEN.encode() not in hub.all_bytes()

    run = subprocess.run(
        [sys.executable, "-c", LOAD, REPO, TEXT],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=hub.client_env(tmp_path / "reader"),
        timeout=200,
    )
    assert run.returncode == 0, run.stderr
    loaded = json.loads(run.stdout.splitlines()[-1])
    assert loaded["problem"] == "multi_label_classification"
    assert list(loaded["labels"].values()) == LABELS
    assert {found["label"]: found["score"] for found in loaded["scores"]} == pytest.approx(scores, abs=1e-6)
    kept = {
        name: float(tensor.astype(np.float64).sum())
        for name, tensor in load_file(source / "model.safetensors").items()
    }
    assert loaded["weights"] == pytest.approx(kept, abs=1e-9)


def test_a_commit_whose_reply_is_lost_is_not_repeated(hub: HubServer, folder: Path, tmp_path: Path) -> None:
    hub.drop_next_commit_reply()
    [said] = push(hub, tmp_path, {"source": folder})
    assert "url" in said, said
    assert any("already" in line for line in said["lines"])
    assert said["url"].endswith(hub.repos[REPO].branches["main"][-1].oid)
    assert hub.commits(REPO) == ["Upload model"]
    assert len([path for _, path in hub.requests if "/commit/" in path]) == 1
    assert hub.files(REPO) == contents(folder)


def test_a_commit_that_lands_after_its_connection_broke_is_not_doubled(
    hub: HubServer, folder: Path, tmp_path: Path
) -> None:
    hub.land_next_commit_late()
    [said] = push(hub, tmp_path, {"source": folder})
    assert "url" in said, said
    assert hub.commits(REPO) == ["Upload model"]
    assert hub.files(REPO) == contents(folder)


def test_passing_errors_are_survived_and_lasting_ones_end(hub: HubServer, folder: Path, tmp_path: Path) -> None:
    for path in ("/api/repos/create", "/api/validate-yaml", "/commit/"):
        hub.fail_next(path, times=2)
    hub.fail_next("/commit/", status=412)  # somebody else's commit came in between
    [said] = push(hub, tmp_path, {"source": folder})
    assert "url" in said, said
    assert hub.commits(REPO) == ["Upload model"]
    assert hub.files(REPO) == contents(folder)

    hub.fail_next("/commit/", times=100)
    (folder / "README.md").write_text(CARD.replace("Made", "Done"))  # another content of the same size
    save_file({"weight": np.zeros(6, np.float32)}, folder / "model.safetensors", metadata={"format": "pt"})
    [said] = push(hub, tmp_path, {"source": folder, "attempts": 3, "wait": 0.01})
    assert "the commit failed 3 times, at last with: 503" in said["error"]
    assert "\n" not in said["error"]
    assert len(hub.commits(REPO)) == 1

    hub.heal()
    push(hub, tmp_path, {"source": folder})
    assert hub.files(REPO) == contents(folder)


def test_a_hub_that_is_down_ends_in_one_line(folder: Path, tmp_path: Path) -> None:
    with HubServer(TOKEN) as gone:
        pass
    [said] = push(gone, tmp_path, {"source": folder, "attempts": 2})
    assert "failed 2 times" in said["error"]
    assert "\n" not in said["error"]


def test_a_refused_token_fails_at_once_with_one_line(hub: HubServer, folder: Path, tmp_path: Path) -> None:
    hub.add_file("tester/open", "config.json", b"{}")
    wrong = "hf_" + "WrongWrongWrongWrongWrongWrongWron"
    broken = wrong + "\nX-Other: " + wrong  # the client quotes the header of such a token in what it raises
    calls = [{"token": wrong}, {"token": READ_ONLY}, {"token": READ_ONLY, "repo_id": "tester/open"}, {"token": broken}]
    said = push(hub, tmp_path, *({"source": folder, "wait": 60, **call} for call in calls))
    for answer in said[:3]:
        assert "set HF_TOKEN to a valid token with write access" in answer["error"]
    assert "copy it again" in said[3]["error"]
    for answer in said:
        assert "\n" not in answer["error"]
        assert wrong not in json.dumps(answer)
        assert not any("again in" in line for line in answer["lines"])
    assert set(hub.repos) == {"tester/open"}
    assert hub.files("tester/open") == {"config.json": b"{}"}

    [said] = push(hub, tmp_path, {"source": folder}, token=None)
    assert "no Hub token" in said["error"]
    hub.fail_next("/api/repos/create", status=400, message=f"a proxy dislikes Bearer {TOKEN}")
    [said] = push(hub, tmp_path, {"source": folder})
    assert "a proxy dislikes Bearer <token>" in said["error"]


def test_a_bad_card_or_folder_is_refused_before_anything_is_made(hub: HubServer, folder: Path, tmp_path: Path) -> None:
    bad = {
        "base_model": CARD.replace("tester/teacher", "/home/me/teacher"),
        "datasets": CARD.replace("[tester/messages]", "[./data/messages.tsv]"),
        "license": CARD.replace("apache-2.0", "2.0"),
        "README.md is no model card": CARD.replace("tags: [", "tags: [["),
    }
    sources = [small_folder(tmp_path / f"bad{i}", **{"README.md": text}) for i, text in enumerate(bad.values())]
    (folder / "README.md").unlink()
    leaking = small_folder(tmp_path / "leaking", **{"recipe.yaml": f"hub_token: {READ_ONLY}\n"})
    said = push(hub, tmp_path, *({"source": source} for source in [*sources, folder, leaking]))
    for expected, answer in zip([*bad, "no README.md", "recipe.yaml holds a Hub token"], said, strict=True):
        assert expected in answer["error"]
        assert "\n" not in answer["error"]
    assert hub.repos == {}
    assert {path for _, path in hub.requests} == {"/api/validate-yaml"}


def test_the_token_given_is_searched_for_too(hub: HubServer, tmp_path: Path) -> None:
    hub.token = "an-unusual-token-1234"  # neither in the environment nor of the usual form
    folder = small_folder(tmp_path / "saved", **{"recipe.yaml": f"key: {hub.token}\n"})
    [said] = push(hub, tmp_path, {"source": folder, "token": hub.token}, token=None)
    assert "recipe.yaml holds the token of this push" in said["error"]
    assert hub.repos == {}


def test_former_weights_go_and_other_files_stay(hub: HubServer, folder: Path, tmp_path: Path) -> None:
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    stale = [*shards, "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model-00001-of-00002.bin"]
    stale += ["pytorch_model.bin.index.json", "adapter_model.safetensors", "adapter_model.bin", "adapter_config.json"]
    stays = {
        "notes.md": b"mine",
        "onnx/model.onnx": b"onnx",
        "onnx/pytorch_model.bin": b"mine",
        "rust_model.ot": b"other",
    }
    for name in stale:
        hub.add_file(REPO, name, b"old", lfs=name.endswith((".bin", ".safetensors")))
    for name, content in stays.items():
        hub.add_file(REPO, name, content)
    before = len(hub.commits(REPO))

    same, other = {"source": folder}, {"source": folder, "revision": "trial", "commit_message": "Try"}
    said = push(hub, tmp_path, same, same, other)
    assert hub.files(REPO) == {**contents(folder), **stays}
    assert len(hub.commits(REPO)) == before + 1  # with the deletions in it; the second push found everything there
    assert said[0]["url"] == said[1]["url"]
    assert hub.files(REPO, "trial") == hub.files(REPO)

    (folder / shards[0]).write_bytes((folder / "model.safetensors").read_bytes())
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"weight": shards[0]}}))
    push(hub, tmp_path, other)
    assert hub.files(REPO, "trial") == {**contents(folder), **stays}  # and the single file of before is gone
    assert hub.commits(REPO, "trial")[-1] == "Try"
    assert "model.safetensors" in hub.files(REPO)


def test_an_adapter_leaves_the_base_model_beside_it(hub: HubServer, folder: Path, tmp_path: Path) -> None:
    for name in ("model.safetensors", "adapter_model.bin"):
        hub.add_file(REPO, name, b"old", lfs=True)
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "config.json").rename(folder / "adapter_config.json")
    push(hub, tmp_path, {"source": folder})
    assert hub.files(REPO) == {**contents(folder), "model.safetensors": b"old"}


def test_a_commit_that_leaves_files_out_is_no_success(hub: HubServer, folder: Path, tmp_path: Path) -> None:
    hub.ignored.add("model.safetensors")
    [said] = push(hub, tmp_path, {"source": folder})
    assert "lacks model.safetensors: look at the repository's .gitignore" in said["error"]


def test_private_means_private(hub: HubServer, folder: Path, tmp_path: Path) -> None:
    hub.add_file("tester/open", "notes.md", b"old")
    private = {"source": folder, "private": True}
    made, refused = push(hub, tmp_path, {**private, "repo_id": "student"}, {**private, "repo_id": "tester/open"})
    assert made["url"].startswith(f"{hub.endpoint}/tester/student/")
    assert hub.repos[REPO].private
    assert "exists and is public" in refused["error"]
    assert hub.files("tester/open") == {"notes.md": b"old"}
