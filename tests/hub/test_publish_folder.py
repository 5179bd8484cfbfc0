"""What may leave the machine: the names on the list, and no secret in them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file
from saved_folder import TOKEN, contents, small_folder

from hf_distill.hub.publish_folder import NotPublishable, stage


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return small_folder(tmp_path / "saved")


def test_stage_copies_the_allow_list_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    texts = ["generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]
    texts += ["added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja", "preprocessor_config.json"]
    texts += ["processor_config.json", "recipe.yaml", "spiece.model"]
    for name in texts:
        (folder / name).write_text("{}")
    (folder / "words").write_text("[PAD]")
    (folder / "vocab.txt").symlink_to(folder / "words")  # a link inside the folder is only another name
    (folder / "tokenizer.model").write_bytes(b"\x00\x01")
    wanted = {"config.json", "README.md", "model.safetensors", "tokenizer.model", "vocab.txt", *texts}

    unwanted = ["training_args.bin", ".env", "objective.safetensors", "optimizer.pt", "optimizer.safetensors"]
    unwanted += ["run.log", "trainer_state.json", "events.out.tfevents.1", "pytorch_model.bin", "modeling.py"]
    unwanted += ["model-00001-of-00002.safetensors", "teacher.safetensors", "notes.txt", ".gitattributes", "any.model"]
    for name in unwanted:
        (folder / name).write_text("no")
    for name in ("checkpoint-5", ".cache", "runs", "adapter_config.json"):
        shutil.copytree(small_folder(tmp_path / "inner" / name), folder / name)
    outside = tmp_path / "outside.json"
    outside.write_text('{"private": true}')
    (folder / "adapter_model.safetensors").symlink_to(outside)

    assert stage(folder, tmp_path / "publish", {}) == sorted(wanted)
    assert set(contents(tmp_path / "publish")) == wanted
    assert contents(tmp_path / "publish")["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert not (tmp_path / "publish" / "vocab.txt").is_symlink()


def test_stage_takes_the_shards_that_the_index_names(folder: Path, tmp_path: Path) -> None:
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    (folder / "model.safetensors").rename(folder / shards[0])
    shutil.copy(folder / shards[0], folder / shards[1])
    shutil.copy(folder / shards[0], folder / "model-00003-of-00003.safetensors")  # left over from another save
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": shards[0], "b": shards[1]}}))
    assert stage(folder, tmp_path / "publish", {}) == ["README.md", "config.json", *shards, index.name]

    (folder / shards[1]).unlink()
    with pytest.raises(NotPublishable, match=rf"{shards[1]}.*save the model again"):
        stage(folder, tmp_path / "second", {})
    index.write_text(json.dumps({"weight_map": {"a": "../secrets.safetensors"}}))
    with pytest.raises(NotPublishable, match="not in"):
        stage(folder, tmp_path / "second", {})


def test_stage_takes_an_adapter_alone(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "config.json").rename(folder / "adapter_config.json")
    assert stage(folder, tmp_path / "publish", {}) == ["README.md", "adapter_config.json", "adapter_model.safetensors"]


def test_stage_refuses_what_nobody_could_load(folder: Path, tmp_path: Path) -> None:
    def refused(match: str) -> None:
        with pytest.raises(NotPublishable, match=match) as caught:
            stage(folder, tmp_path / "publish", {})
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "publish").exists() or not list((tmp_path / "publish").iterdir())

    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-4])
    refused("model.safetensors is damaged or cut short")
    (folder / "model.safetensors").unlink()
    refused("no model to publish.*save_pretrained")
    (tmp_path / "elsewhere").write_bytes(weights)
    (folder / "model.safetensors").symlink_to(tmp_path / "elsewhere")
    refused("no model to publish.*links")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "config.json").unlink()
    refused("no model to publish.*config.json")
    with pytest.raises(NotPublishable, match="not an empty folder"):
        stage(folder, folder, {})
    with pytest.raises(NotPublishable, match="is no folder"):
        stage(tmp_path / "missing", tmp_path / "publish", {})


@pytest.mark.parametrize("name", ["README.md", "recipe.yaml", "config.json", "tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize("secret", ["Hub token", "$SOME_API_KEY", "$WANDB_TOKEN", "$DB_PASSWORD", "$CLIENT_SECRET"])
def test_stage_refuses_secrets(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, secret: str
) -> None:
    value = TOKEN if secret == "Hub token" else 'canary "87654321"'  # quoted, so that JSON spells it otherwise
    if secret != "Hub token":
        monkeypatch.setenv(secret[1:], value)
    if name == "model.safetensors":
        save_file(load_file(folder / name), folder / name, metadata={"command": f"train --key {value}"})
    else:
        (folder / name).write_text(json.dumps({"text": f"before {value} after"}))
    with pytest.raises(NotPublishable, match=name) as caught:
        stage(folder, tmp_path / "publish", {})
    assert secret in str(caught.value)
    assert value not in str(caught.value)
    assert contents(tmp_path / "publish") == {}


def test_stage_lets_ordinary_text_pass(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI_DB_PASSWORD", "password")  # stands in every vocabulary
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "apache-2.0")
    monkeypatch.setenv("SHORT_TOKEN", "license")
    monkeypatch.setenv("EMPTY_SECRET", "")
    (folder / "vocab.txt").write_text("[PAD]\npassword\nhf_distill\n")
    assert "vocab.txt" in stage(folder, tmp_path / "publish", {})
