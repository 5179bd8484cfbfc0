"""Where a run goes on the Hub, by its config; `test_trainer_push` does it against a server."""

import logging

import pytest

from hf_distill import DistillationConfig, hub
from hf_distill.hub.publishing import Publication


@pytest.fixture
def calls(monkeypatch):
    seen = []
    monkeypatch.setattr(hub, "push", lambda *args, **kwargs: seen.append((args, kwargs)) or "the url")
    monkeypatch.setattr(hub, "make_repository", lambda *args, **kwargs: seen.append((args, kwargs)) or "me/it")
    return seen


def config(folder, **settings) -> DistillationConfig:
    return DistillationConfig(str(folder / "student"), use_cpu=True, **settings)


def test_the_config_says_where_and_how(tmp_path, calls):
    args = config(tmp_path, hub_model_id="me/it", hub_private_repo=True, hub_token="mine", hub_revision="trial")
    publication = Publication(args)
    assert publication.make_repository() == "me/it"
    assert publication.push("folder") == "the url"
    told = {"private": True, "token": "mine"}
    assert calls == [
        (("me/it",), told),
        (("folder", "me/it"), told | {"revision": "trial", "commit_message": "End of training"}),
    ]


def test_the_caller_may_say_otherwise_and_the_folder_names_the_repository(tmp_path, calls):
    publication = Publication(config(tmp_path, hub_private_repo=True, hub_token="mine"))
    publication.make_repository("yours", private=False)
    publication.push("folder", "By hand", "yours", revision="other", private=False)
    told = {"private": False, "token": "yours"}
    assert calls == [
        (("student",), told),
        (("folder", "student"), told | {"revision": "other", "commit_message": "By hand"}),
    ]


def test_a_checkpoint_that_does_not_get_there_is_warned_of_and_the_last_one_is_an_error(
    tmp_path, calls, monkeypatch, caplog
):
    publication, checkpoint = Publication(config(tmp_path)), tmp_path / "student" / "checkpoint-2"
    checkpoint.mkdir(parents=True)
    (tmp_path / "student" / "README.md").write_text("the card")
    with monkeypatch.context() as away:

        def fail(*args, **kwargs):
            raise hub.HubError("nobody there")

        away.setattr(hub, "push", fail)
        with caplog.at_level(logging.WARNING):
            publication.push_checkpoint(str(checkpoint), 2)
    assert f"{checkpoint} is saved and not on the Hub: nobody there" in caplog.text
    assert (checkpoint / "README.md").read_text() == "the card"
    with pytest.raises(hub.HubError, match="saved and not on the Hub: nobody there"):
        publication.finish()
    publication.push_checkpoint(str(checkpoint), 3)
    publication.finish()
    assert calls[0][1]["commit_message"] == "Training in progress, step 3"
