"""What may be public: text without secrets, local paths, addresses and the names of this user and this machine."""

from __future__ import annotations

import getpass
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

REMOVED = "REMOVED"
SHORTEST_SECRET = 8

HUB_TOKEN = r"hf_[A-Za-z0-9]{20,}|hf_(?:oauth|jwt)_[\w.-]{16,}|api_org_[A-Za-z0-9]{20,}"
_SECRET = re.compile(
    rf"{HUB_TOKEN}|gh[opsru]_[A-Za-z0-9]{{20,}}"
    r"|github_pat_\w{20,}|sk-[\w-]{20,}|AKIA[A-Z0-9]{16}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]+"
)
_SECRET_WORD = r"(?:token(?!iz)|secret|passw(?:or)?d|api[_-]?key|access[_-]?key)"
_ASSIGNED = re.compile(  # name=value, name: value, --name value
    rf"(?i)([\w-]*{_SECRET_WORD}\w*\s*[=:]\s*|--[\w-]*{_SECRET_WORD}\w*\s+)(?=\S*[\d_-])[^\s,;]{{8,}}"
)
# TOKENIZERS_PARALLELISM is no secret.
_SECRET_NAME = re.compile(r"TOKEN(?!IZ)|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_KEY|PRIVATE_KEY", re.IGNORECASE)
_PATH = re.compile(
    r"""(?P<url>https?://[^\s"'`<>]+)
    |(?:file:/{1,3}
       |(?<![\w.~/\\-])(?:~[\w.-]*[/\\]+|/(?=[\w.~*])|(?:\.\.[/\\]+)+)
       |(?<!\w)[A-Za-z]:[/\\]+
       |(?<![\w\\])\\\\(?=\w))
     [^\s"'`<>|,;()\[\]{}]*""",
    re.VERBOSE,
)
_ADDRESS = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)*")
_SHARED_NAMES = frozenset({"root", "user", "users", "admin", "ubuntu", "runner", "home", "localhost", "data", "model"})


def environment_secrets() -> dict[str, str]:
    """{name: value} of the environment variables whose name says that they are secret."""
    values = {name: value.strip() for name, value in os.environ.items() if _SECRET_NAME.search(name)}
    return {name: value for name, value in values.items() if len(value) >= SHORTEST_SECRET}


def public(text: str) -> str:
    """Without secrets, addresses and the folders above a file."""
    for value in environment_secrets().values():
        text = text.replace(value, REMOVED)
    text = _SECRET.sub(REMOVED, text)
    text = _ASSIGNED.sub(lambda match: match[1] + REMOVED, text)
    for folder in _own_folders():  # literally first: they may contain spaces
        text = re.sub(rf"(?<![\w.]){re.escape(folder)}(?![\w.-])", "/_", text)
    text = _PATH.sub(lambda match: match[0] if match["url"] else last_name(match[0]), text)
    return _ADDRESS.sub(REMOVED, text)


def last_name(path: str) -> str:
    """What is left of a local path: its last folder or file, unless that names a person or a machine."""
    parts = [part for part in re.split(r"[/\\]+", path) if part and not re.fullmatch(r"\.+|~.*|_|\w:|file:", part)]
    if len(parts) > 1 and "*" in parts[-1]:
        parts.pop()  # a pattern says less than the folder it searches
    named = parts[-1] if parts else ""
    if not named or named in _identities() or (len(parts) > 1 and parts[-2].lower() in ("home", "users")):
        return "local-folder"
    return _ADDRESS.sub(REMOVED, _SECRET.sub(REMOVED, named))


def without_identity(text: str) -> str:
    """Without the names of this user and this machine, where they are no owner of a repository on the Hub."""
    for name in _identities() - _SHARED_NAMES:
        if len(name) > 3:
            word = re.escape(name)
            as_owner = rf"(?P<owner>(?<![\w./-]){word}/[\w.-]+(?![\w./-]))"  # of a repository: public already
            text = re.sub(
                rf"{as_owner}|(?<![\w.-]){word}(?![\w-])",
                lambda match: match[0] if match["owner"] else REMOVED,
                text,
            )
    return text


def leaks(text: str) -> Iterator[str]:
    """What must not be in a finished text, by kind: a message that repeats a secret would be one more leak."""
    if any(not match["url"] for match in _PATH.finditer(text)):
        yield "an absolute path"
    if _SECRET.search(text) or any(value in text for value in environment_secrets().values()):
        yield "a secret"


def _identities() -> set[str]:
    """Names of this user and this machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container without such a user
        user = ""
    host = socket.gethostname()
    return {user, host, host.split(".")[0], Path.home().name} - {""}


def _own_folders() -> list[str]:
    return sorted((folder for folder in {str(Path.home()), os.getcwd()} if len(folder) > 1), key=len, reverse=True)
