"""`hf-distill` in the process of the tests, and what is said of one that failed."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import datasets
from huggingface_hub.utils import logging as hub_logging
from transformers.utils import logging as transformers_logging
from typer.testing import CliRunner

from hf_distill import cli


def one_line(done: Any, *parts: str, code: int = 1) -> None:
    """The process failed, with one line on stderr that says all these parts."""
    assert done.returncode == code, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert "Traceback" not in done.stderr
    for part in parts:
        assert part in done.stderr


@contextmanager
def quiet_again() -> Iterator[logging.Logger]:
    """What a command changes in the libraries of its process is put back."""
    log, verbosity = logging.getLogger("hf_distill"), hub_logging.get_verbosity()
    state = log.propagate, log.level, log.handlers
    try:
        yield log
    finally:
        log.propagate, log.level, log.handlers = state
        hub_logging.set_verbosity(verbosity)
        datasets.enable_progress_bars()
        transformers_logging.enable_progress_bar()


def invoke(*arguments: str) -> Any:
    """The command in this process, which has imported everything."""
    with quiet_again():
        done = CliRunner().invoke(cli.app, list(arguments))
    done.returncode = done.exit_code
    return done
