"""Which files on disk a cached teacher was loaded from, so that it need not be loaded to know that it is the same."""

import json
from pathlib import Path
from typing import Any

from transformers import AutoConfig
from transformers.utils import cached_file

from hf_distill.tasks import find_task
from hf_distill.teachers.cache.manifest import Manifest, described, skeleton, write_json

SOURCE = "source.json"


def remember(folder: Path, model: str) -> None:
    """Writes down the files of the teacher that has filled a folder.

    Args:
        folder: a finished cache.
        model: the folder or Hub id that the teacher was loaded from, and was not changed since.
    """
    manifest = Manifest.read(folder)
    assert manifest is not None, "the cache is finished"
    found = {"weights": manifest.fingerprint["weights"], "files": files_of(model)}
    if found != _remembered(folder):
        write_json(folder / SOURCE, found)


def is_same(folder: Path, model: str, dtype: str, task: str | None) -> bool:
    """Whether a finished cache was filled by a teacher on disk; that is not loaded.

    Its config must be the same file, and so must the weights that are there: those that are gone cannot differ.

    Args:
        folder: of the cache.
        model: a folder or a Hub id.
        dtype: that it would be loaded in, or "auto".
        task: that it is to solve; None for its own, as its config says.
    """
    manifest, known, here = Manifest.read(folder), _remembered(folder), files_of(model)
    if manifest is None or "config.json" not in here or known.get("weights") != manifest.fingerprint["weights"]:
        return False
    if any(known["files"].get(name) != found for name, found in here.items()):
        return False
    config = AutoConfig.from_pretrained(model)
    if dtype == "auto":
        dtype = str(config.dtype).removeprefix("torch.")
    fields = manifest.fingerprint["config"] | {"problem_type": config.problem_type}
    task = task or str(find_task(skeleton(manifest.fingerprint | {"config": fields})))
    return dtype == manifest.fingerprint["dtype"] and task == manifest.fingerprint["task"]


def files_of(model: str) -> dict[str, str]:
    """{name: hash} of config and weights as far as they are on this machine.

    Args:
        model: a folder or a Hub id.
    """
    folder = Path(model)
    if not folder.is_dir():
        try:
            folder = Path(cached_file(model, "config.json", local_files_only=True)).parent
        except OSError:  # of transformers, for what was not downloaded and for what is no id
            return {}
    names = ("config.json", "*.safetensors", "pytorch_model*.bin")
    return {file.name: described(file)["blake2b"] for name in names for file in sorted(folder.glob(name))}


def _remembered(folder: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / SOURCE).read_text(encoding="utf-8"))
        return found
    except (FileNotFoundError, ValueError):
        return {}
