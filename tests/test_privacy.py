"""What is left of text that may be seen by all."""

import getpass
import socket

import pytest

from hf_distill.privacy import REMOVED, environment_secrets, last_name, leaks, public, without_identity

TOKEN = "hf_" + "aB3" * 11


@pytest.fixture(autouse=True)
def nobody_here(monkeypatch):
    monkeypatch.setattr(getpass, "getuser", lambda: "bob")
    monkeypatch.setattr(socket, "gethostname", lambda: "gpu-box-7.example.com")
    monkeypatch.setenv("HOME", "/home/bob")


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("run --out=/home/alice/secret-project/final now", "run --out=final now"),
        (r"see (C:\Users\alice\project\final)", "see (final)"),
        ("~alice/project/final", "final"),
        ("/srv/alice/tickets/*.tsv", "tickets"),
        ("/home/alice", "local-folder"),
        ("alice@gpu-7.example.com", REMOVED),
        (f"key {TOKEN}", f"key {REMOVED}"),
        ("hub_token: abc-123-def-456", f"hub_token: {REMOVED}"),
        ("max_token_length: 128", "max_token_length: 128"),
    ],
)
def test_text_without_paths_and_secrets(text, left):
    assert public(text) == left
    assert not list(leaks(public(text)))


def test_urls_hub_ids_and_fractions_are_no_paths():
    for text in (
        "See https://arxiv.org/abs/1503.02531 and TCP/IP, 1/2, N/A.",
        "hf-distill train recipes/a.yaml --set x=someone/model",
    ):
        assert public(text) == text
        assert not list(leaks(text))


def test_paths_with_spaces_under_the_own_folders(monkeypatch):
    monkeypatch.setenv("HOME", "/mnt/people/Alice Smith")
    assert public("python /mnt/people/Alice Smith/private/train.py") == "python train.py"


def test_the_last_name_of_a_path_is_no_person_and_no_machine():
    assert last_name("/srv/models/teacher/") == "teacher"
    for path in ("/home/alice", "/Users/alice/", "/mnt/bob", "/mnt/gpu-box-7", "C:\\", "~"):
        assert last_name(path) == "local-folder"


def test_names_of_user_and_machine_go_and_an_owner_on_the_hub_stays(monkeypatch):
    monkeypatch.setattr(getpass, "getuser", lambda: "alice")
    said = "ssh gpu-box-7 sudo -u alice hf-distill train --hub alice/model"
    assert without_identity(said) == f"ssh {REMOVED} sudo -u {REMOVED} hf-distill train --hub alice/model"
    monkeypatch.setattr(getpass, "getuser", lambda: "root")
    assert without_identity("root mean square") == "root mean square"


def test_secrets_of_the_environment_go_by_their_names(monkeypatch):
    for name in ("MY_API_KEY", "WANDB_TOKEN", "DB_PASSWORD", "CLIENT_SECRET"):
        monkeypatch.setenv(name, f" canary of {name}\n")
    ordinary = {"TOKENIZERS_PARALLELISM": "not secret", "SHORT_TOKEN": "short", "BLANK_SECRET": " " * 9}
    for name, value in ordinary.items():
        monkeypatch.setenv(name, value)
    found = environment_secrets()
    assert {name: found.get(name) for name in ("MY_API_KEY", "WANDB_TOKEN", "DB_PASSWORD", "CLIENT_SECRET")} == {
        name: f"canary of {name}" for name in ("MY_API_KEY", "WANDB_TOKEN", "DB_PASSWORD", "CLIENT_SECRET")
    }
    assert not set(ordinary) & set(found)
    assert list(leaks("so: canary of MY_API_KEY")) == ["a secret"]
    assert public("so: canary of MY_API_KEY, not secret") == f"so: {REMOVED}, not secret"


@pytest.mark.parametrize(("text", "kind"), [("in /mnt/data", "an absolute path"), (TOKEN, "a secret")])
def test_leaks_are_named_by_kind(text, kind):
    assert list(leaks(text)) == [kind]
