"""`hf-distill` on the command line. Nothing heavy is imported before a command needs it."""

import gc
import logging
import os
import shlex
import sys
import warnings
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

app = typer.Typer(
    help="Knowledge distillation for Hugging Face transformers: a small student from a good teacher.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

RecipePath = Annotated[Path, typer.Argument(help="The recipe, a YAML file.", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Change a value: train.num_train_epochs=3, losses.1.temperature=4.")
]
CustomCode = Annotated[
    bool, typer.Option(help="Let the recipe name losses or a teaching function of your own, and run them.")
]
Debug = Annotated[bool, typer.Option(help="Show the traceback of an error.")]


def _reported(command: Callable[..., None]) -> Callable[..., None]:
    """An error is one line on stderr and exit code 1; `--debug` shows where it came from."""

    @wraps(command)
    def run(*args: Any, debug: bool, **kwargs: Any) -> None:
        try:
            command(*args, debug=debug, **kwargs)
            _leave_the_others()
        except KeyboardInterrupt:
            typer.echo("stopped", err=True)
            raise typer.Exit(130) from None
        except Exception as error:
            if debug:
                raise
            typer.echo(f"error: {_said(error)}", err=True)
            raise typer.Exit(1) from None

    return run


def _said(error: Exception) -> str:
    """The message; of an error that nobody here has worded, also its kind."""
    said = str(error).strip() or type(error).__name__
    if isinstance(error, (ValueError, OSError, FloatingPointError, ImportError)):
        return said
    return f"{type(error).__name__}: {said} (--debug shows where)"


@app.command()
@_reported
def train(
    recipe: RecipePath,
    override: Overrides = None,
    allow_custom_code: CustomCode = False,
    resume: Annotated[bool, typer.Option(help="Go on from the newest checkpoint in the output folder.")] = False,
    profile: Annotated[bool, typer.Option(help="Say where ten steps' time goes, and write a trace of two.")] = False,
    debug: Debug = False,
) -> None:
    """Carry a recipe out: a small model in train.output_dir, with its card and its figures."""
    if profile:  # torch reads it when it is imported, and says on stderr when tracing starts and stops
        os.environ.setdefault("KINETO_LOG_LEVEL", "3")
    from hf_distill import recipe as recipes

    checked = recipes.load(recipe, override or (), allow_custom_code)
    from hf_distill import run

    _calm()
    run.train(checked, Console(), allow_custom_code, resume, _command_line(), profile)


@app.command()
@_reported
def validate(
    recipe: RecipePath, override: Overrides = None, allow_custom_code: CustomCode = False, debug: Debug = False
) -> None:
    """Check a recipe and everything that it names, and train nothing; a function that teaches is asked once."""
    from hf_distill import recipe as recipes

    checked = recipes.load(recipe, override or (), allow_custom_code)
    from hf_distill import run

    _calm()
    ready = run.check(checked, allow_custom_code)
    rows = ", ".join(f"{len(part):,} {split}" for split, part in ready.dataset.items())
    typer.echo(f"{recipe}: fine ({ready.task}; rows: {rows}; student: {ready.student.num_parameters():,} parameters)")


@app.command()
@_reported
def cache(
    recipe: RecipePath,
    override: Overrides = None,
    allow_custom_code: CustomCode = False,
    show: Annotated[bool, typer.Option("--show", help="Only say what is in the folder.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Only compare every file with what was written.")] = False,
    debug: Debug = False,
) -> None:
    """Ask the teacher once about every example, and keep its answers in teacher.cache for all runs to come."""
    from hf_distill import recipe as recipes

    checked = recipes.load(recipe, override or (), allow_custom_code)
    from hf_distill.run import cached

    console = Console()
    if verify:
        size = cached.opened(cached.folder_of(checked)).verify()
        console.print(f"{checked.teacher.cache}: every file is as it was written ({size:,} bytes)", highlight=False)
    elif show:
        console.print(cached.table(cached.opened(cached.folder_of(checked))))
    else:
        _calm()
        built = cached.build(checked, console, allow_custom_code)
        if os.environ.get("RANK", "0") == "0":
            console.print(cached.table(built))


@app.command()
@_reported
def push(
    folder: Annotated[Path, typer.Argument(help="A folder that `train` wrote.", show_default=False)],
    repo_id: Annotated[
        str | None, typer.Argument(help="`name` or `owner/name`; the folder's name if left out.", show_default=False)
    ] = None,
    private: Annotated[bool | None, typer.Option(help="Make a new repository private.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch to push to.")] = None,
    debug: Debug = False,
) -> None:
    """Upload a finished student: weights, config, tokenizer, card and recipe, and nothing else of the folder."""
    from hf_distill import hub

    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder. Give the output_dir of a finished run.")
    name = repo_id or folder.absolute().name
    url = hub.push(folder, name, private=private, revision=revision, progress=lambda line: typer.echo(line, err=True))
    typer.echo(url)


@app.command()
@_reported
def losses(
    name: Annotated[str | None, typer.Argument(help="One loss, for example RKDAngle.", show_default=False)] = None,
    debug: Debug = False,
) -> None:
    """The catalogue of losses, grouped by what they look at; or one of them."""
    from hf_distill.cli import catalogue

    catalogue.show(name, Console())


@app.command()
@_reported
def demo(
    output: Annotated[Path, typer.Option(help="Where models, card and figures go.")] = Path("demo_out"),
    override: Overrides = None,
    debug: Debug = False,
) -> None:
    """The main job on shipped data: fine-tune a teacher, distil a DistilBERT student of half the depth."""
    from hf_distill import demo as shipped

    shipped.encoder_folder()  # before what takes seconds to import
    _calm()
    shipped.main(output, Console(), override or ())


def _calm() -> None:
    """What the package logs is shown as plain lines, once; bars for loading and saving a file are not."""
    from datasets import disable_progress_bars
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    hub_logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # a retry is no news, the last failure an error
    if not sys.stderr.isatty():
        disable_progress_bars()
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)  # PEFT's call, not the user's
    log = logging.getLogger("hf_distill")
    log.propagate = False
    log.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR)
    log.handlers = [logging.StreamHandler()]


def _command_line() -> str:
    """What was typed, without the folder of the program."""
    program = Path(sys.argv[0]).name
    if program == "__main__.py":
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        program = f"torchrun --nproc_per_node {processes} -m" if processes > 1 else "python -m"
        program += " hf_distill.cli"
    return f"{program} {shlex.join(sys.argv[1:])}"


def main() -> None:
    """Entry point of `hf-distill`."""
    for name in ("torchao", "torch.utils._pytree"):  # on a CPU torchao says at every import which kernels it lacks
        logging.getLogger(name).setLevel(logging.ERROR)
    app()


def _leave_the_others() -> None:
    """Ends the process group, whose threads would abort a process that succeeded; models that hold it go first."""
    dist = sys.modules.get("torch.distributed")
    if dist is not None and dist.is_available() and dist.is_initialized():
        gc.collect()
        dist.barrier()
        dist.destroy_process_group()
