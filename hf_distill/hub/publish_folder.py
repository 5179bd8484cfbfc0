"""A clean publish folder: an allow-listed copy of a saved model, searched for secrets."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open

from hf_distill import privacy

CONFIGS = ("config.json", "generation_config.json", "adapter_config.json")
TOKENIZER_AND_PROCESSOR = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.txt", "vocab.json", "merges.txt",
    "tokenizer.model", "spiece.model", "sentencepiece.model", "sentencepiece.bpe.model", "spm.model",
    "chat_template.jinja", "preprocessor_config.json", "processor_config.json",
)  # fmt: skip
PAPERS = ("README.md", "recipe.yaml")
EXITS = ("exits.json", "exits.safetensors")  # of a model that may stop early
WEIGHTS, INDEX, ADAPTER = "model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors"
SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
# Every common word stands in these, so PASSWORD=password in a CI job would be "found" in each.
VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt")
_HUB_TOKEN = re.compile(privacy.HUB_TOKEN.encode())


class NotPublishable(ValueError):
    """A folder that must not be published as it is. One line, with the cure."""


def stage(source: Path, target: Path, secrets: Mapping[str, str]) -> list[str]:
    """Copy what belongs on the Hub from a saved-model folder into an empty folder; see `hub.stage`.

    Args:
        source: folder that `save_pretrained` or `trainer.save_model` wrote.
        target: empty or missing folder; it is made.
        secrets: {what messages call it: value} that no file may hold, beside those of the environment.

    Returns:
        The names that were copied, sorted.

    Raises:
        NotPublishable: the folder cannot be loaded, a file holds a secret, or `target` is not empty. `target` is then
            left empty.
    """
    secrets = {**_environment_secrets(), **secrets}
    root = source.resolve()
    if not root.is_dir():
        raise NotPublishable(
            f"{source} is no folder: pass the folder that trainer.save_model or save_pretrained wrote"
        )
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise NotPublishable(f"{target} is not an empty folder: pass a new one to stage into")
    names = _publishable(root)
    target.mkdir(parents=True, exist_ok=True)
    try:
        for name in names:
            shutil.copyfile(root / name, target / name)
            _refuse_secrets(target / name, secrets)  # the copy, so that what was searched is what goes up
    except BaseException:
        for name in names:
            (target / name).unlink(missing_ok=True)
        raise
    return names


def _publishable(root: Path) -> list[str]:
    """The names to copy, sorted; refuses a folder that nobody could load."""
    weights = _weight_names(root)
    names = {name for name in (*CONFIGS, *TOKENIZER_AND_PROCESSOR, *PAPERS, *EXITS) if _inside(root, name)} | set(
        weights
    )
    model = "config.json" in names and any(name != ADAPTER for name in weights)
    adapter = "adapter_config.json" in names and ADAPTER in names
    if not (model or adapter):
        raise NotPublishable(
            f"{root} holds no model to publish: expected config.json with {WEIGHTS}, or adapter_config.json with "
            f"{ADAPTER}, as files and not as links out of it. Save it with trainer.save_model or save_pretrained"
        )
    return sorted(names)


def _weight_names(root: Path) -> list[str]:
    adapter = [ADAPTER] if _inside(root, ADAPTER) else []
    if _inside(root, WEIGHTS):
        return [WEIGHTS, *adapter]  # as from_pretrained: shards beside it are left over from another save
    if not _inside(root, INDEX):
        return adapter
    try:
        shards = set(json.loads((root / INDEX).read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError):
        raise NotPublishable(f"{INDEX} of {root} is no index of weights: save the model again") from None
    missing = sorted(name for name in shards if not (SHARD.fullmatch(name) and _inside(root, name)))
    if missing:
        raise NotPublishable(f"{INDEX} names {missing[0]}, which is not in {root}: save the model again")
    return [INDEX, *sorted(shards), *adapter]


def _inside(root: Path, name: str) -> bool:
    """A real file of this folder; a link that leads out of it may show anything of the machine."""
    path = root / name
    return path.is_file() and path.resolve().is_relative_to(root)


def _environment_secrets() -> dict[str, str]:
    return {f"the value of ${name}": value for name, value in privacy.environment_secrets().items()}


def _refuse_secrets(path: Path, secrets: Mapping[str, str]) -> None:
    text = _safetensors_header(path) if path.suffix == ".safetensors" else path.read_bytes()
    found = _HUB_TOKEN.search(text)
    if found:
        start = found[0][:5].decode()
        raise NotPublishable(
            f"{path.name} holds a Hub token ({start}...): take it out, and revoke it if it was ever shared"
        )
    for what, value in secrets.items():
        ordinary = path.name in VOCABULARIES and value.isalpha()
        if not ordinary and any(spelling in text for spelling in _spellings(value)):
            raise NotPublishable(f"{path.name} holds {what}: take it out, or unset the variable if it is no secret")


def _safetensors_header(path: Path) -> bytes:
    """Names and metadata, without the tensors: a length in 8 bytes, then so many bytes of JSON."""
    try:
        with safe_open(path, framework="numpy"):
            pass
    except SafetensorError as error:
        raise NotPublishable(f"{path.name} is damaged or cut short ({error}): save the model again") from None
    with path.open("rb") as file:
        return file.read(int.from_bytes(file.read(8), "little"))


def _spellings(value: str) -> set[bytes]:
    """As it stands, and as JSON writes it."""
    texts = (value, json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1])
    return {text.encode("utf-8", "surrogateescape") for text in texts}
