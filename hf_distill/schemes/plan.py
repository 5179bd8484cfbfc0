"""What every scheme works with: models, data and settings, and stages that are trained once and found again."""

import copy
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from datasets import Dataset, load_from_disk
from rich.console import Console
from torch import nn
from transformers import PreTrainedModel, TrainingArguments, set_seed

from hf_distill import attachment, checkpoints
from hf_distill.card import CardFacts, render
from hf_distill.config import DistillationConfig, take_over
from hf_distill.hub.publishing import Publication
from hf_distill.losses import Loss, TaskLoss
from hf_distill.report import stages
from hf_distill.report.stages import StageFacts
from hf_distill.schemes import folders, judging
from hf_distill.schemes.budget import Share, settings_of
from hf_distill.schemes.given import student_of, teacher_of
from hf_distill.schemes.wording import NOT_YET_KNOWN, in_words, making_of, stage_of
from hf_distill.teachers import Nobody, Teacher
from hf_distill.teachers.given import as_teacher, everybody, models_of
from hf_distill.trainer import DistillationTrainer
from hf_distill.training_facts import teacher_facts


class Plan:
    """Everything that a scheme needs, given once as a `DistillationTrainer` takes it:

        plan = schemes.Plan(student, teacher, losses, args, train_dataset=..., processing_class=tokenizer)
        student = schemes.born_again(plan, generations=3)

    Every stage is trained in a folder of its own inside `args.output_dir`, and is marked when it is finished. With
    `resume=True` finished stages are loaded instead of trained, and one that was cut off goes on from its newest
    checkpoint; other settings than those of the former run are refused. A scheme first goes through all of its stages
    without training, so that what the last one refuses is refused before the first one's step 1.

    Args:
        student: what every fresh student is a copy of, a model or its id; or a function that makes one.
        teacher: a model, its id, a `Teacher`, or None for schemes that need none.
        losses: of the stages that name none; None for the default of the task.
        args: of every stage. The epochs (or `max_steps`) are those of one stage unless a scheme says that it shares
            them out. `output_dir` holds the stages and at the end the student, with its card and `stages.json`.
        resume: whether a former run goes on.
        console: where stages are announced; None for the terminal.
        watch: called with each trainer before it trains, to add callbacks for example.
        trainer_class: `DistillationTrainer` or a subclass.
        trainer_kwargs: the trainer's others (train_dataset, eval_dataset, processing_class, data_collator,
            compute_metrics, optimizer_cls_and_kwargs, ...); no train_dataset where the scheme makes its own.

    Attributes:
        folder: `args.output_dir`.
        stages: what the stages so far were, in order.
        scheme: the scheme as it was called, such as ``"born_again(generations=3)"``.
        card_facts: what a card can say of the last stage.

    Raises:
        ValueError: what belongs to one training alone (`optimizers`, `model_init`, `AdapterOffTeacher`).
    """

    def __init__(
        self,
        student: PreTrainedModel | str | Callable[[], PreTrainedModel],
        teacher: PreTrainedModel | nn.Module | Teacher | str | None = None,
        losses: Sequence[Loss] | None = None,
        args: TrainingArguments | None = None,
        *,
        resume: bool = False,
        console: Console | None = None,
        watch: Callable[[DistillationTrainer], None] | None = None,
        trainer_class: type[DistillationTrainer] = DistillationTrainer,
        **trainer_kwargs: Any,
    ) -> None:
        for name in ("optimizers", "model_init"):
            if trainer_kwargs.get(name) is not None:
                cure = "Pass student= as a function that makes one, or optimizer_cls_and_kwargs=."
                raise ValueError(f"{name} is for one training, and a scheme has several. {cure}")
        self.args: DistillationConfig = take_over(args)
        self.teacher = teacher_of(teacher, self.args.label_map)
        if isinstance(student, str):
            student, trainer_kwargs = student_of(student, self.teacher, trainer_kwargs)
        self.losses = losses
        self.trainer_class, self.trainer_kwargs = trainer_class, trainer_kwargs
        self.console = Console(quiet=True) if self.args.process_index else console or Console()
        self.watch = watch
        self.resume = resume
        self.folder = Path(str(self.args.output_dir))
        self.stages: list[StageFacts] = []
        self._student = student
        self._rehearsing = False
        self._made = 0  # students, by the function
        self._heard: set[int] = set()
        self._running: str | None = None
        self._names: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
        self._anew = False  # whether something was trained now, so that what comes after it must be too
        self.scheme = ""
        self.card_facts: CardFacts | None = None

    # What a scheme asks

    def fresh(self) -> PreTrainedModel:
        """A new student, as each of them starts; what a function draws for it is the same in a resumed run."""
        if isinstance(self._student, nn.Module):
            return copy.deepcopy(self._student)
        self._made += 1
        set_seed(self.args.seed + self._made)
        return self._student()

    @property
    def makes_students(self) -> bool:
        """Whether a function makes each student; else all are copies of one."""
        return not isinstance(self._student, nn.Module)

    def need_teacher(self) -> Teacher:
        """The teacher of the plan.

        Raises:
            ValueError: there is none.
        """
        if self.teacher is None:
            raise ValueError(f"{self._running or 'this scheme'} needs a teacher. Pass teacher= to the Plan.")
        return self.teacher

    @property
    def train_dataset(self) -> Any:
        """What every stage trains on unless it is told otherwise; a ValueError where there is none."""
        if self.trainer_kwargs.get("train_dataset") is None:
            raise ValueError(f"{self._running} needs texts: pass train_dataset= to the Plan, or take data_free.")
        return self.trainer_kwargs["train_dataset"]

    @property
    def rehearsing(self) -> bool:
        """Whether nothing is trained yet; what takes long may be left out."""
        return self._rehearsing

    def stage(
        self,
        name: str,
        student: PreTrainedModel,
        teacher: PreTrainedModel | Teacher | None = None,
        losses: Sequence[Loss] | None = None,
        *,
        share: Share = 1.0,
        args: Mapping[str, Any] | None = None,
        keep_objective: bool = False,
        **trainer_kwargs: Any,
    ) -> PreTrainedModel:
        """Trains a student in a folder of its own, or loads it if that was done.

        Args:
            name: of the stage and of its folder.
            student: trained in place. Where the stage was finished before, it is given the weights that it had then.
            teacher: a model, a `Teacher`, or None for nobody.
            losses: None for those of the plan, and if that names none, for the default of the task (the labels alone
                where nobody teaches).
            share: of the plan's epochs or steps; or from where to where of them: (0.0, 0.5) and (0.5, 1.0) have all of
                `max_steps` together, however they are rounded. Epochs are made whole steps by each.
            args: fields of the configuration that differ from the plan's.
            keep_objective: whether what the losses have trained is left in the stage's folder, beside its student.
            trainer_kwargs: instead of the plan's.

        Returns:
            The student in eval mode, with the weights of the last step, or of the best checkpoint where the
            configuration says `load_best_model_at_end`.

        Raises:
            ValueError: what the trainer refuses; a share of nothing; a finished stage of other settings.
        """
        if any(name == each.name for each in self.stages):
            raise ValueError(f"two stages are called {name!r}; give each a name of its own.")
        given = as_teacher(Nobody() if teacher is None else teacher, self.args.label_map)
        if losses is None:
            losses = [TaskLoss()] if teacher is None else self.losses
        with self._folder_of(name) as folder:
            inputs = {} if "train_dataset" in trainer_kwargs else {"train_dataset": self.train_dataset}
            kwargs = {**self.trainer_kwargs, **inputs, **trainer_kwargs}
            if hasattr(student, "get_base_model"):
                kwargs["peft_config"] = None  # a stage before has given it adapters
            own = settings_of(self.args, folder, name, share, args)
            trainer = self.trainer_class(student, given, losses, own, **kwargs)
            student = trainer.model  # with adapters, where peft_config was given
            facts = stage_of(name, trainer, in_words(teacher, self._names), self.scheme)
            if self._rehearsing:
                self._check_former(name, facts)
            else:
                facts = self._found(folder, facts, trainer) or self._train(folder, facts, trainer, keep_objective)
                self.card_facts = replace(trainer.own_facts(), steps=facts.steps, epochs=facts.epochs)
                if all(model in self._names for model in models_of(given)):
                    self.card_facts.teacher = None  # what a former stage made is no teacher that was there before
        attachment.release(student)
        self.stages.append(facts)
        self._names[student] = name
        self._heard |= set(map(id, everybody(given)))
        return student.eval()

    def judge(self, name: str, teacher: Teacher, student: PreTrainedModel) -> None:
        """Notes among the stages how good a teacher is, where there are `eval_dataset` and `compute_metrics`.

        Args:
            name: of its row.
            teacher: it gives logits.
            student: for what the losses would be of; it is not changed.
        """
        given, args = self.trainer_kwargs, settings_of(self.args, self.folder, name)
        if given.get("eval_dataset") is not None and given.get("compute_metrics") is not None:
            found = judging.judged(teacher, student, args, given, self._rehearsing, self.watch)
            self.stages.append(StageFacts(name, in_words(teacher, self._names), finished=True, metrics=found))

    def once(self, name: str, make: Callable[[], Dataset]) -> Dataset:
        """A data set that takes long to make: made once, kept in the folder, found again by a resumed run.

        Args:
            name: of its folder.
            make: called without arguments, in the rehearsal too, where `rehearsing` says so and a few rows do.

        Raises:
            ValueError: a former run made it by another call of the scheme, of other rows or of another teacher.
        """
        folder, of = self.folder / name, making_of(self)
        if self.resume:
            folders.check_made(folder, of)
        if self._rehearsing:
            folders.check_own(folder)
            return make()
        if not (self.resume and folder.is_dir() and not self._anew):
            with self.args.main_process_first(desc=name):
                if self.args.process_index == 0:
                    beside = folder.with_name(f".{name}.unfinished")
                    shutil.rmtree(beside, ignore_errors=True)
                    folders.remove(folder)
                    make().save_to_disk(beside)
                    folders.mark(beside, name, of)
                    beside.rename(folder)
        return load_from_disk(str(folder))

    def keep(self, name: str, model: PreTrainedModel) -> None:
        """Saves a model that is not the scheme's result, in a folder of its own, as the result is saved.

        Args:
            name: of the folder, inside `args.output_dir`.
            model: in whatever mode; it is left in eval mode.
        """
        model.eval()
        if self._rehearsing:
            folders.check_own(self.folder / name)
        elif self.args.process_index == 0:
            folders.mark(self.folder / name, name, {})  # first: what is cut off in the middle is known for its own
            self._save(model, self.folder / name)

    # How a scheme runs

    @property
    def is_running(self) -> bool:
        """Whether a scheme is under way, of which another one would be a part."""
        return self._running is not None

    @contextmanager
    def running(self, name: str, knobs: Mapping[str, Any]) -> Iterator[None]:
        """Around a scheme."""
        self._running, self.scheme = name, stages.call(name, knobs)
        try:
            yield
        finally:
            self._running = None

    @contextmanager
    def rehearsal(self) -> Iterator[None]:
        """Inside, stages are checked and not trained, and nothing is left behind."""
        self._rehearsing = True
        try:
            yield
        finally:
            self._rehearsing, self.stages, self._names = False, [], WeakKeyDictionary()
            self._heard, self._made = set(), 0

    def begin(self) -> None:
        """Before the first stage: what a former run left is removed, unless that one goes on."""
        self._anew, self._heard, self._made = False, set(), 0
        if not self.resume and self.args.process_index == 0:
            folders.forget(self.folder)

    def heard(self, teacher: Teacher) -> bool:
        """Whether a teacher taught in some stage, by itself or inside of another one."""
        return id(teacher) in self._heard or (bool(teacher.members) and all(map(self.heard, teacher.members)))

    def finish(self, student: PreTrainedModel) -> PreTrainedModel:
        """Saves the student, its tokenizer, the stages and a card that tells the lineage; pushes where `args` say so.

        Args:
            student: what the scheme returns.
        """
        if self.args.process_index:
            return student
        folders.forget_weights(self.folder)
        self._save(student, self.folder)
        stages.save(self.stages, self.scheme, self.folder / "stages.json")
        self.console.print(stages.table(self.stages))
        assert self.card_facts is not None, "a scheme has at least one stage"
        known = self.teacher is not None and self.heard(self.teacher)
        credit = teacher_facts(self.teacher) if known else {}
        lineage = {"stages": self.stages, "scheme": self.scheme, "result": self._names.get(student)}
        self.card_facts = replace(self.card_facts, **credit, **lineage, seed=self.args.seed)
        render(self.card_facts).save(self.folder / "README.md")
        if self.args.push_to_hub:
            url = Publication(self.args).push(str(self.folder))
            self.console.print(f"on the Hub: {url}", highlight=False, markup=False, soft_wrap=True)
        return student

    def _save(self, model: PreTrainedModel, folder: Path) -> None:
        model.save_pretrained(folder)
        if (tokenizer := self.trainer_kwargs.get("processing_class")) is not None:
            tokenizer.save_pretrained(folder)

    # One stage

    @contextmanager
    def _folder_of(self, name: str) -> Iterator[Path]:
        """Where a stage is kept; in the rehearsal a folder that is thrown away."""
        folder = self.folder / name
        if self._rehearsing:
            folders.check_own(folder)
            with tempfile.TemporaryDirectory() as scratch:
                yield Path(scratch)
            return
        if self._anew and self.args.process_index == 0:
            folders.remove(folder)  # it came after something that was trained again
        yield folder

    def _check_former(self, name: str, wanted: StageFacts) -> None:
        """In the rehearsal: a stage that was begun with other settings is refused before anything trains."""
        former = stages.read(self.folder / name / folders.MARK) if self.resume else None
        if former is not None:
            stages.check_same(former, wanted, self.folder / name, but=NOT_YET_KNOWN)

    def _found(self, folder: Path, wanted: StageFacts, trainer: DistillationTrainer) -> StageFacts | None:
        """A finished stage, student and teacher as they were at its end; None where there is something to do."""
        if not self.resume or (facts := stages.read(folder / folders.MARK)) is None:
            return None
        stages.check_same(facts, wanted, folder)
        if not facts.finished:
            return None
        self._say(f"{wanted.name}: finished before")
        if state := attachment.teacher_state(folder):
            trainer.teacher.load_state(state)
        student = trainer.model
        with attachment.detached(student):
            if isinstance(student, PreTrainedModel):
                attachment.reload(student, str(folder))
            else:
                student.load_adapter(str(folder), student.active_adapter)  # type: ignore[operator]
        return facts

    def _train(
        self, folder: Path, facts: StageFacts, trainer: DistillationTrainer, keep_objective: bool
    ) -> StageFacts:
        self._say(f"{facts.name}: {facts.student}; teacher: {facts.teacher or 'nobody'}")
        main = trainer.is_world_process_zero()
        if main:
            stages.write(facts, folder / folders.MARK)
        if self.watch is not None:
            self.watch(trainer)
        checkpoint = checkpoints.newest(folder) if self.resume else None
        trainer.train(resume_from_checkpoint=checkpoint)
        if main:  # a teacher that learned is a result too, and a resumed scheme has it no more
            attachment.save_beside({}, trainer.teacher.state(), folder)
        trainer.save_model(_internal_call=True)  # of the stage: the scheme's end is pushed, and nothing before
        measured = judging.measured(trainer)
        logged = trainer.state.log_history
        seconds = next((entry["train_runtime"] for entry in reversed(logged) if "train_runtime" in entry), None)
        facts = replace(facts, finished=True, steps=trainer.state.global_step, epochs=trainer.state.epoch,
                        metrics=measured, seconds=None if checkpoint else seconds)  # fmt: skip
        if main and keep_objective:
            attachment.save_beside(trainer.objective.state_dict(), {}, folder)
        if main:
            stages.write(facts, folder / folders.MARK)
        self._anew = True
        trainer.accelerator.wait_for_everyone()
        return facts

    def _say(self, text: str) -> None:
        if not self._rehearsing:
            self.console.rule(text)
