"""Only what a scheme made is removed."""

import pytest

from hf_distill.schemes import folders


def test_own_folders_go_and_others_stay(tmp_path):
    for name in ("student", "mine", "empty"):
        (tmp_path / name).mkdir()
    folders.mark(tmp_path / "student", "student", {})
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    (tmp_path / "exits.json").write_text("{}")
    (tmp_path / "config.json").write_text("{}")
    folders.check_own(tmp_path / "student")
    folders.check_own(tmp_path / "empty")
    folders.check_own(tmp_path / "missing")
    with pytest.raises(ValueError, match="mine is needed for a part of the scheme, and holds"):
        folders.check_own(tmp_path / "mine")
    folders.remove(tmp_path / "mine")
    folders.forget(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "empty", "mine"]


def test_weights_of_another_kind_go(tmp_path):
    for name in ("adapter_config.json", "adapter_model.safetensors", "model.safetensors", "README.md"):
        (tmp_path / name).write_text("x")
    folders.forget_weights(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
