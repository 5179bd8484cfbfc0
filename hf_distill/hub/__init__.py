"""A clean publish folder, and a push that survives faults.

    saved folder --stage--> allow-listed copy --push--> one commit on the Hub

Nothing is uploaded by exclusion: a file goes up because its name is on the list in `publish_folder`, after its text
was searched for secrets. A push looks at the remote tree before every try, so that a commit whose reply was lost is
found and not made twice.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from hf_distill.hub import publish_folder
from hf_distill.hub.publish_folder import ADAPTER, INDEX, WEIGHTS, NotPublishable

try:  # the client below huggingface_hub: httpx2 since version 2 of it, httpx before
    import httpx2 as http_client
except ImportError:
    import httpx as http_client  # type: ignore[no-redef]

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoFile

T = TypeVar("T")

__all__ = ["HubError", "make_repository", "push", "stage"]

# What from_pretrained may pick up at the root of a repository, in any format that a former upload can have left there.
MODEL_WEIGHTS = re.compile(
    r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json"
    r"|pytorch_model(-\d{5}-of-\d{5})?\.bin|pytorch_model\.bin\.index\.json"
)
ADAPTER_WEIGHTS = re.compile(r"adapter_model\.(safetensors|bin)")

LONGEST_WAIT = 30.0
# 412: the branch moved since its tree was compared, so compare again. 409: another commit is being made.
TRANSIENT_STATUS = frozenset({408, 409, 412, 425, 429, 500, 502, 503, 504})


class HubError(ValueError):
    """A folder that must not be published as it is, or a push that failed for good. One line, with the cure."""


def stage(source: str | os.PathLike[str], destination: str | os.PathLike[str]) -> list[str]:
    """Copy what belongs on the Hub from a saved-model folder into an empty folder, and nothing else.

    Taken, from the top of `source` only: the model's weights in safetensors (with their index), an adapter, the
    configs, tokenizer and processor files, `README.md` and `recipe.yaml`. Left behind: everything else, so
    `training_args.bin`, `.env`, `objective.safetensors`, optimizer states, caches, logs, checkpoints, and links that
    lead out of the folder.

    Args:
        source: folder that `save_pretrained` or `trainer.save_model` wrote.
        destination: empty or missing folder; it is made.

    Returns:
        The names that were copied, sorted.

    Raises:
        HubError: `source` holds no config with weights (or adapter), its index names a shard that is missing,
            `destination` is not empty, or a file holds a secret: a Hub token, or the value of an environment
            variable whose name says TOKEN, SECRET, PASSWORD or API_KEY. `destination` is then left empty.
    """
    return _stage(Path(source), Path(destination), {})


def push(
    source: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str = "Upload model",
    attempts: int = 5,
    wait: float = 1.0,
    progress: Callable[[str], None] | None = None,
) -> str:
    """Publish a saved-model folder as one commit, or find that it is there already.

    The folder is staged (see `stage`) and its card checked by the Hub before anything is made or uploaded. Other files
    of the repository stay, except what a former upload left and `from_pretrained` could read in place of the new
    weights (shards, .bin files, an adapter beside a whole model): that goes in the same commit. The Hub is the one
    that HF_ENDPOINT names when this module is imported.

    Args:
        source: folder that `save_pretrained` or `trainer.save_model` wrote, with a `README.md`.
        repo_id: "name" or "namespace/name"; made if it does not exist.
        private: of a new repository; None leaves it to the account's default. With True, a public one is refused.
        token: a token with write access; None takes HF_TOKEN or the one that `hf auth login` stored.
        revision: branch, made if it does not exist; None is main.
        commit_message: first line of the commit.
        attempts: how often each step is tried when the Hub is not reached or answers with a passing error.
        wait: seconds before the second try; doubled for each further one, 30 at most.
        progress: called with one line for each step.

    Returns:
        The URL of the commit that holds the staged files.

    Raises:
        HubError: the folder or its card is refused, the token is missing or not accepted, or the attempts ran out.
    """
    secret = _secret(token)
    patience = _Patience(attempts, wait, progress or (lambda line: None), secret, repo_id)
    with tempfile.TemporaryDirectory(prefix="hf-distill-") as folder:
        staged = Path(folder)
        names = _stage(Path(source), staged, {"the token of this push": secret})
        patience.say(f"staged {len(names)} files: {', '.join(names)}")
        _check_card(staged, patience)
        api = HfApi(token=secret, library_name="hf_distill")
        repo_id = patience("making the repository", lambda: _make_repository(api, repo_id, private))
        if revision not in (None, constants.DEFAULT_REVISION) and not str(revision).startswith("refs/"):
            patience("making the branch", lambda: api.create_branch(repo_id, branch=str(revision), exist_ok=True))
        url = patience("the commit", _Commit(api, repo_id, revision, staged, commit_message, patience.say))
    patience.say(f"published: {url}")
    return url


def make_repository(
    repo_id: str, *, private: bool | None = None, token: str | None = None, attempts: int = 5, wait: float = 1.0
) -> str:
    """Make the repository if it is not there: a token or a name that the Hub refuses is known before the training.

    Args:
        repo_id: as in `push`.
        private: as in `push`.
        token: as in `push`.
        attempts: as in `push`.
        wait: as in `push`.

    Returns:
        "namespace/name".

    Raises:
        HubError: as `push`.
    """
    secret = _secret(token)
    patience = _Patience(attempts, wait, lambda line: None, secret, repo_id)
    api = HfApi(token=secret, library_name="hf_distill")
    return patience("making the repository", lambda: _make_repository(api, repo_id, private))


def _secret(token: str | None) -> str:
    secret = (token or get_token() or "").strip()
    if not secret:
        raise HubError("no Hub token: set HF_TOKEN to a token with write access, or run `hf auth login`")
    if not re.fullmatch(r"[\x21-\x7e]+", secret):  # the client would quote the whole header in its error
        raise HubError("the Hub token has a space, a line break or another odd character in it: copy it again")
    return secret


def _stage(source: Path, target: Path, secrets: Mapping[str, str]) -> list[str]:
    try:
        return publish_folder.stage(source, target, secrets)
    except NotPublishable as error:
        raise HubError(str(error)) from None


def _check_card(staged: Path, patience: _Patience) -> None:
    path = staged / "README.md"
    if not path.is_file():
        raise HubError("the folder has no README.md: write the model card first (hf_distill.card)")
    try:
        card = ModelCard.load(path)
    except Exception as error:  # yaml, jinja and huggingface_hub each raise their own
        raise HubError(f"README.md is no model card: {_one_line(str(error))}") from error
    patience("the check of README.md", card.validate)


def _make_repository(api: HfApi, repo_id: str, private: bool | None) -> str:
    full_id = str(api.create_repo(repo_id, private=private, exist_ok=True).repo_id)
    # exist_ok says nothing when the repository is there already with another visibility
    if private and not api.model_info(full_id).private:
        raise HubError(f"{full_id} exists and is public: make it private on the Hub first, or leave private=True out")
    return full_id


class _Commit:
    """One commit that makes the remote hold the staged files.

    Called again after a fault, it first looks at what is there.
    """

    def __init__(
        self, api: HfApi, repo_id: str, revision: str | None, staged: Path, message: str, say: Callable[[str], None]
    ) -> None:
        self.api = api
        self.repo_id = repo_id
        self.revision = revision
        self.staged = staged
        self.message = message
        self.say = say
        self.local = {path.name: path for path in sorted(staged.iterdir())}

    def __call__(self) -> str:
        head = self.api.model_info(self.repo_id, revision=self.revision).sha
        different, stale = self.compare(head)
        if not different and not stale:
            self.say("the repository holds these files already")
            return f"{self.api.endpoint}/{self.repo_id}/commit/{head}"
        self.say(
            f"uploading {', '.join(different) or 'nothing'}" + (f"; deleting {', '.join(stale)}" if stale else "")
        )
        commit = self.api.create_commit(
            self.repo_id,
            [CommitOperationDelete(name) for name in stale]
            + [CommitOperationAdd(name, self.local[name]) for name in different],
            commit_message=self.message,
            revision=self.revision,
            parent_commit=head,  # one that lands late, after its connection broke, makes the next one fail, not double
        )
        different, stale = self.compare(commit.oid)
        if different or stale:
            raise HubError(
                f"{commit.commit_url} lacks {', '.join(different + stale)}: look at the repository's .gitignore"
            )
        return str(commit.commit_url)

    def compare(self, revision: str | None) -> tuple[list[str], list[str]]:
        """Staged files that the remote lacks or holds otherwise, and remote weights that would be read beside them."""
        remote = {entry.path: entry for entry in self.remote_files(revision)}
        different = [name for name, path in self.local.items() if name not in remote or not _same(path, remote[name])]
        return different, sorted(name for name in remote if name not in self.local and self.is_stale(name))

    def remote_files(self, revision: str | None) -> Iterator[RepoFile]:
        from huggingface_hub.hf_api import RepoFile

        entries = self.api.list_repo_tree(self.repo_id, revision=revision)
        return (entry for entry in entries if isinstance(entry, RepoFile))

    def is_stale(self, name: str) -> bool:
        if ADAPTER_WEIGHTS.fullmatch(name) or name == "adapter_config.json":
            # Beside a whole model, an old adapter_config.json makes from_pretrained load the adapter and its base.
            return ADAPTER not in self.local or name.endswith(".bin")
        # An adapter alone may live in the repository of its base model, whose weights stay.
        return MODEL_WEIGHTS.fullmatch(name) is not None and (WEIGHTS in self.local or INDEX in self.local)


def _same(path: Path, remote: RepoFile) -> bool:
    size = path.stat().st_size
    if size != remote.size:
        return False
    if remote.lfs:
        return _digest(path, hashlib.sha256()) == remote.lfs.sha256
    return _digest(path, hashlib.sha1(b"blob %d\0" % size)) == remote.blob_id  # as git names a file


def _digest(path: Path, digest: hashlib._Hash) -> str:
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


class _Patience:
    """Calls one step again while it fails for a passing reason, and turns the last failure into one line."""

    def __init__(self, attempts: int, wait: float, say: Callable[[str], None], secret: str, repo_id: str) -> None:
        self.attempts = max(1, attempts)
        self.wait = wait
        self.say = say
        self.secret = secret
        self.repo_id = repo_id

    def __call__(self, step: str, call: Callable[[], T]) -> T:
        for attempt in range(1, self.attempts + 1):
            try:
                return call()
            except HubError:
                raise
            except Exception as error:
                # "from None": what the client raises may quote its request, and a traceback ends up in logs.
                if not _is_transient(error):
                    raise HubError(self.refusal(step, error)) from None
                reason = self.clean(error)
                if attempt == self.attempts:
                    cure = "push again later, what is there already is not sent twice"
                    raise HubError(f"{step} failed {attempt} times, at last with: {reason}; {cure}") from None
            pause = min(LONGEST_WAIT, self.wait * 2 ** (attempt - 1))
            self.say(f"{step} failed ({reason}), try {attempt} of {self.attempts}; again in {pause:g} s")
            time.sleep(pause)
        raise AssertionError("unreachable")

    def refusal(self, step: str, error: Exception) -> str:
        if isinstance(error, OfflineModeIsEnabled):
            return "HF_HUB_OFFLINE is set: unset it to push"
        status = _status(error)
        if status in (401, 403):
            return (
                f"the Hub refused {step} for {self.repo_id} ({status}): set HF_TOKEN to a valid token with write "
                f"access to {self.repo_id}, or run `hf auth login`"
            )
        return f"the Hub refused {step} for {self.repo_id}: {self.clean(error)}"

    def clean(self, error: Exception) -> str:
        """The error as one line, with the token taken out should a proxy or the Hub have quoted it."""
        detail = getattr(error, "server_message", None) or str(error) or type(error).__name__
        status = _status(error)
        return _one_line(f"{status} {detail}" if status else detail).replace(self.secret, "<token>")


def _is_transient(error: Exception) -> bool:
    if isinstance(error, OfflineModeIsEnabled | http_client.UnsupportedProtocol | http_client.LocalProtocolError):
        return False
    if isinstance(error, HfHubHTTPError):
        return _status(error) in TRANSIENT_STATUS
    # A JSON error is a gateway's HTML page where the Hub's answer was expected.
    return isinstance(error, http_client.TransportError | ConnectionError | TimeoutError | json.JSONDecodeError)


def _status(error: Exception) -> int | None:
    response: Any = getattr(error, "response", None)
    return None if response is None else int(response.status_code)


def _one_line(text: str) -> str:
    """The text of an error without line breaks; the Hub's JSON answer reduced to its messages."""
    try:
        errors = json.loads(text)["errors"]
        text = "; ".join(str(error["message"]) for error in errors)
    except (ValueError, TypeError, KeyError, IndexError):
        pass
    return " ".join(text.split())
