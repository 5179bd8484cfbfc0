"""What the benchmark of schemes learns: intents of queries, drawings, clothes, the next word, embeddings."""

import argparse
import csv
import json
import tempfile
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset, DatasetDict, disable_progress_bars
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    GPT2Config,
    GPT2LMHeadModel,
    PrinterCallback,
    ProgressCallback,
    ViTConfig,
    ViTForImageClassification,
    default_data_collator,
    set_seed,
)
from transformers.utils import logging

from hf_distill import DistillationConfig, DistillationTrainer, demo, losses, schemes, students, teachers
from hf_distill.batch import Batch
from hf_distill.metrics import for_task
from hf_distill.signals import LOGITS, Signal, Signals
from hf_distill.tasks import PROBLEM_TYPES, Task

SHARED = Path(__file__).resolve().parents[3] / "shared"
BLOCKS = [1, 4]  # of an encoder's six, which a student of texts is made of
PASSAGE = 35  # words
WIKITEXT = {"train": "valid.txt", "test": "test.txt"}  # what is learned, and measured


class Remembering(teachers.ModelTeacher):
    """Answers with logits that it has given before, row by row; where more is asked for, the model runs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._wanted: frozenset[Signal] = frozenset()
        self._said: dict[Any, Tensor] = {}

    def prepare(self, student: nn.Module, wanted: frozenset[Signal], device: torch.device, tokenizer: Any) -> None:
        super().prepare(student, wanted, device, tokenizer)
        self._wanted = wanted

    def remember(self, rows: Dataset, collate: Any) -> None:
        """Asks the model about rows once."""
        for inputs, said in answers(self.model, rows, collate):
            self._said |= dict(zip(_keys(inputs), said, strict=True))

    def observe(self, batch: Batch) -> Signals:
        if self._wanted == {LOGITS} and "inputs_embeds" not in batch.inputs:
            rows = _keys(batch.inputs)
            if all(row in self._said for row in rows):
                return {LOGITS: torch.stack([self._said[row] for row in rows])}
        return super().observe(batch)


def _keys(inputs: Any) -> list[Any]:
    """What tells rows of a batch apart, however it is padded."""
    if "pixel_values" in inputs:
        return [each.numpy().tobytes() for each in inputs["pixel_values"]]
    kept = inputs["attention_mask"].bool()
    return [tuple(ids[mask].tolist()) for ids, mask in zip(inputs["input_ids"], kept, strict=True)]


class Field(ABC):
    """Data, teachers and students of one seed.

    Args:
        arguments: of the command line.
        seed: chooses the rows and starts the students.
    """

    reference: ClassVar[str]  # the run that the others are compared with
    task: ClassVar[Task] = Task.SINGLE_LABEL
    judged_by: ClassVar[str] = "accuracy"  # or "surprise", of which less is better
    settings: ClassVar[dict[str, Any]]  # of every student's training
    losses: ClassVar[Any] = None  # of a plan; None: what it takes where none are named

    def __init__(self, arguments: argparse.Namespace, seed: int) -> None:
        disable_progress_bars()
        logging.disable_progress_bar()
        logging.set_verbosity_error()  # a fresh head is meant
        self.seed, self.arguments = seed, arguments
        self.noted: dict[str, float] = {}  # what a run says beside its student's figures
        self.spent_aside = 0.0  # seconds of the processor that are not the run's
        self.train: Dataset
        self.validation: Dataset
        self.tokenizer: Any = None
        self.collate: Any = default_data_collator

    def student(self) -> Any:
        """A fresh student, always the same one of a seed."""
        set_seed(self.seed)
        return self.another()

    @abstractmethod
    def another(self) -> Any:
        """A fresh student, with a head of its own each time it is called."""

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What is done in it is to be known, and no part of the run."""
        start = time.process_time()
        yield
        self.spent_aside += time.process_time() - start

    def measure(self, student: nn.Module) -> dict[str, float]:
        """How good a student is, on rows that no training has seen."""
        return self.figures_of(student, self.validation)

    def figures_of(self, model: nn.Module, rows: Dataset) -> dict[str, float]:
        """Of a classifier."""
        return figures(logits_of(model, rows, self.collate), torch.tensor(rows["labels"][:]))

    def config(self, folder: Path, **more: Any) -> DistillationConfig:
        """The settings of every training."""
        settings = {
            "per_device_train_batch_size": 32,
            "per_device_eval_batch_size": 256,
            "warmup_steps": 0.1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
            "seed": self.seed,
            **self.settings,
        }
        return DistillationConfig(str(folder), **{**settings, **more})

    def trainer(
        self, student: Any, teacher: Any, terms: Any, folder: Path, train_dataset: Any = None, **more: Any
    ) -> DistillationTrainer:
        """One training without a scheme."""
        made = DistillationTrainer(
            student,
            teacher,
            terms,
            self.config(folder, **more),
            train_dataset=self.train if train_dataset is None else train_dataset,
            processing_class=self.tokenizer,
            data_collator=self.collate,
        )
        quiet(made)
        return made

    def plan(self, folder: Path, teacher: Any, student: Any = None, **more: Any) -> schemes.Plan:
        """What a scheme works with; `student` makes other students than `self.student` does."""
        kwargs = {
            "train_dataset": self.train,
            "eval_dataset": self.validation,
            "processing_class": self.tokenizer,
            "data_collator": self.collate,
            "compute_metrics": compute_metrics,
            **more,
        }
        args, console = self.config(folder), Console(file=StringIO())
        made = student or self.student
        return schemes.Plan(made, teacher, self.losses, args, console=console, watch=quiet, **kwargs)

    def taught(self, name: str, model: Any, rows: Dataset, **more: Any) -> Any:
        """A model that has learned the labels of rows, or what a former call has left in the output folder."""
        folder = self.arguments.output / name
        if not (folder / "config.json").exists():
            with tempfile.TemporaryDirectory() as scratch, self.aside():
                terms = [losses.TaskLoss()]
                self.trainer(model, teachers.Nobody(), terms, Path(scratch), train_dataset=rows, **more).train()
            model.save_pretrained(folder)
        return teachers.load(str(folder))


class Queries(Field):
    """150 intents of short queries (CLINC150), of which students see few.

    Teachers of six blocks learned from all queries; students are two blocks of the encoder that the teachers started
    from. The first teacher's logits of the students' rows are known before, as from a cache.
    """

    reference = "soft targets"
    settings: ClassVar[dict[str, Any]] = {"learning_rate": 5e-4}

    def __init__(self, arguments: argparse.Namespace, seed: int) -> None:
        super().__init__(arguments, seed)
        self.settings = {**self.settings, "num_train_epochs": arguments.epochs}  # type: ignore[misc]
        self.tokenizer = AutoTokenizer.from_pretrained(arguments.encoder)
        self.collate = DataCollatorWithPadding(self.tokenizer)
        self.rows, self.names = read_queries(arguments.data / "clinc150", self.tokenizer)
        drawn = self.rows["train"].shuffle(seed=seed)
        self.train = drawn.select(range(arguments.rows))
        rest = drawn.select(range(arguments.rows, min(2 * arguments.rows, len(drawn))))
        self.unlabelled = rest.remove_columns("labels")
        held_out = self.rows["validation"].shuffle(seed=0)
        self.validation = held_out.select(range(min(arguments.evaluate, len(held_out))))
        self.teachers = [Remembering(self._teacher(number)) for number in range(2)]
        for rows in (self.train, self.validation):
            self.teachers[0].remember(rows, self.collate)

    def _teacher(self, number: int) -> nn.Module:
        set_seed(number)
        epochs = {"num_train_epochs": self.arguments.teacher_epochs / (number + 1), "seed": number}
        return self.taught(f"teacher_{number}", self.encoder(), self.rows["train"], **epochs)

    def encoder(self) -> Any:
        """The encoder before it was a teacher, with a fresh head."""
        return AutoModelForSequenceClassification.from_pretrained(
            self.arguments.encoder,
            **names_of(self.names),
            problem_type=PROBLEM_TYPES[Task.SINGLE_LABEL],
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
        )

    def teacher(self) -> Any:
        """Of most runs."""
        return self.teachers[0]

    def another(self) -> Any:
        return students.keep_layers(self.encoder(), BLOCKS)


class CutOut(Queries):
    """The same, for students that start as blocks of the teacher and not of the encoder that it started from."""

    reference = "cut out of the teacher"

    def another(self) -> Any:
        return students.keep_layers(self.teachers[0].model, BLOCKS)


class Drawings(Field):
    """The categories of emoji, drawn by two artists and said in words; labels are known of every second pair.

    Teachers learned from the labels: one reads the words, and two see a drawing each, a first and a second artist's.
    Students, a small ViT that has learned nothing yet, see the first artist's.
    """

    reference = "drawings: soft targets"
    settings: ClassVar[dict[str, Any]] = {"learning_rate": 1e-3, "num_train_epochs": 40}

    def __init__(self, arguments: argparse.Namespace, seed: int) -> None:
        super().__init__(arguments, seed)
        self.words = AutoTokenizer.from_pretrained(demo.encoder_folder())
        self.rows, self.names = read_drawings(arguments.data / "emoji_pairs", self.words)
        self.pairs = self.rows["train"].shuffle(seed=0)
        self.labelled = self.pairs.select(range(0, len(self.pairs), 2))
        self.train, self.validation = (
            self.viewed("pixel_values", rows) for rows in (self.labelled, self.rows["test"])
        )

    def another(self) -> Any:
        shape = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 256}
        return ViTForImageClassification(ViTConfig(image_size=32, patch_size=8, **shape, **names_of(self.names)))

    def viewed(self, column: str, rows: Dataset, prefix: str = "") -> Dataset:
        """Rows with one drawing (`pixel_values` or `other_drawing`) or the words (`words`), and the labels."""
        own = {"input_ids": "input_ids", "attention_mask": "attention_mask"}
        own = own if column == "words" else {column: "pixel_values"}
        kept = rows.select_columns([*own, "labels"])
        return kept.rename_columns({name: prefix + known for name, known in own.items() if name != prefix + known})

    def teacher(self, column: str) -> Remembering:
        """Who learned from one side of the pairs with labels."""
        set_seed(0)
        words = column == "words"
        model = self.student()
        if words:
            encoder, labels = demo.encoder_folder(), names_of(self.names)
            model = AutoModelForSequenceClassification.from_pretrained(encoder, **labels, dtype=torch.float32)
        usual = self.collate
        self.collate = DataCollatorWithPadding(self.words) if words else usual
        more = {"num_train_epochs": 8, "learning_rate": 1e-4} if words else {"num_train_epochs": 40}
        made = Remembering(self.taught(f"of_{column}", model, self.viewed(column, self.labelled), seed=0, **more))
        with self.aside():
            made.remember(self.viewed(column, self.pairs), self.collate)
            found = self.figures_of(made.model, self.viewed(column, self.rows["test"]))
        self.noted["teacher"] = found["accuracy"]
        self.collate = usual
        return made


class Clothes(Field):
    """Ten kinds of clothes on small grey images (Fashion-MNIST), of which 2,000 are learned and 8,000 measured.

    Students, small ViTs, have learned nothing yet; there is no teacher. Other seeds have other images.
    """

    reference = "clothes: labels alone"
    settings: ClassVar[dict[str, Any]] = {"learning_rate": 1e-3, "num_train_epochs": 20}

    def __init__(self, arguments: argparse.Namespace, seed: int) -> None:
        super().__init__(arguments, seed)
        rows = read_clothes(arguments.data / "fashion_mnist").shuffle(seed=seed)
        self.train, self.validation = rows.select(range(2000)), rows.select(range(2000, len(rows)))

    def another(self) -> Any:
        shape = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 128}
        return ViTForImageClassification(
            ViTConfig(image_size=28, patch_size=7, num_channels=1, num_labels=10, **shape)
        )


class Words(Field):
    """The next word of encyclopedia articles (WikiText-2): 1,700 passages are learned and 1,700 other ones measured.

    Students, small GPT-2s, have learned nothing yet; there is no teacher. Other seeds have other passages.
    """

    reference = "words: labels alone"
    task = Task.CAUSAL_LM
    judged_by = "surprise"
    settings: ClassVar[dict[str, Any]] = {"learning_rate": 1e-3, "num_train_epochs": 10}

    def __init__(self, arguments: argparse.Namespace, seed: int) -> None:
        super().__init__(arguments, seed)
        passages, self.vocabulary = read_words(arguments.data / "wikitext2")
        self.train = passages["train"].shuffle(seed=seed).select(range(1700))
        self.validation = passages["test"].select(range(1714, 3414))  # settings were chosen on those before

    def another(self) -> Any:
        shape = {"n_positions": PASSAGE, "n_embd": 128, "n_layer": 2, "n_head": 4}
        left_out = {"resid_pdrop": 0.2, "embd_pdrop": 0.2, "attn_pdrop": 0.2}
        ends = {"bos_token_id": None, "eos_token_id": None}
        return GPT2LMHeadModel(GPT2Config(vocab_size=len(self.vocabulary), **shape, **left_out, **ends))

    def plan(self, folder: Path, teacher: Any, student: Any = None, **more: Any) -> schemes.Plan:
        return super().plan(folder, teacher, student, **{"eval_dataset": None, "compute_metrics": None, **more})

    def figures_of(self, model: nn.Module, rows: Dataset) -> dict[str, float]:
        """Of every word but the first of a passage."""
        said = logits_of(model, rows, self.collate)[:, :-1]
        return figures(said.flatten(0, 1), rows["labels"][:][:, 1:].flatten())


class Sentences(Field):
    """Embeddings of a bank's customers' questions (Banking77), without labels.

    The teacher is all-MiniLM-L6-v2 as it comes, students are two of its blocks; distances and angles between texts are
    compared. How good they are: whether the nearest other text is about the same, of 77 things.
    """

    reference = "embeddings: distances and angles"
    settings: ClassVar[dict[str, Any]] = {"learning_rate": 2e-4}
    losses: ClassVar[Any] = [losses.RKDDistance("mean", weight=1.0), losses.RKDAngle("mean", weight=2.0)]

    def __init__(self, arguments: argparse.Namespace, seed: int) -> None:
        super().__init__(arguments, seed)
        self.settings = {**self.settings, "num_train_epochs": arguments.epochs}  # type: ignore[misc]
        self.tokenizer = AutoTokenizer.from_pretrained(demo.encoder_folder())
        self.collate = DataCollatorWithPadding(self.tokenizer)
        rows = read_sentences(arguments.data / "banking77", self.tokenizer).shuffle(seed=0)
        held_out = min(arguments.evaluate, len(rows) // 2)
        self.validation = rows.select(range(held_out))
        drawn = rows.select(range(held_out, len(rows))).remove_columns("labels").shuffle(seed=seed)
        self.train = drawn.select(range(min(arguments.rows, len(drawn))))

    def teacher(self) -> Any:
        model = AutoModel.from_pretrained(demo.encoder_folder(), dtype=torch.float32, add_pooling_layer=False).eval()
        with self.aside():
            self.noted["teacher"] = self.measure(model)["accuracy"]
        return model

    def another(self) -> Any:
        return students.keep_layers(AutoModel.from_pretrained(demo.encoder_folder(), add_pooling_layer=False), BLOCKS)

    def plan(self, folder: Path, teacher: Any, student: Any = None, **more: Any) -> schemes.Plan:
        return super().plan(folder, teacher, student, **{"eval_dataset": None, "compute_metrics": None, **more})

    def measure(self, student: nn.Module) -> dict[str, float]:
        return {
            "accuracy": nearest_agree(embeddings(student, self.validation, self.collate), self.validation["labels"])
        }


# ---- data ----------------------------------------------------------------------------------------------------------


def names_of(names: list[str]) -> dict[str, Any]:
    """For a config."""
    return {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}


def read_queries(folder: Path, tokenizer: Any) -> tuple[DatasetDict, list[str]]:
    """The queries as token ids, and the names of the intents."""
    found = json.loads((folder / "data_full.json").read_text(encoding="utf-8"))
    names = sorted({name for _, name in found["train"]})

    def encoded(pairs: list[list[str]]) -> Dataset:
        columns = dict(tokenizer([text for text, _ in pairs], truncation=True, max_length=32))
        return Dataset.from_dict({**columns, "labels": [names.index(name) for _, name in pairs]})

    return DatasetDict(train=encoded(found["train"]), validation=encoded(found["val"])), names


def read_clothes(folder: Path) -> Dataset:
    """Images (1, 28, 28) from -1 to 1, and their labels; those that are for tests come last."""
    found = np.load(folder / "fashion_mnist_8k_2k.npz")
    seen = np.concatenate([found["train_x"], found["test_x"]])[:, None].astype(np.float32) / 127.5 - 1
    labels = np.concatenate([found["train_y"], found["test_y"]]).astype(np.int64)
    return Dataset.from_dict({"pixel_values": seen, "labels": labels}).with_format("torch")


def read_words(folder: Path, most: int = 3000) -> tuple[DatasetDict, list[str]]:
    """Passages of 35 words as numbers, and the most frequent words of those to learn, which all others are none of."""
    read = {split: (folder / file).read_text(encoding="utf-8").split() for split, file in WIKITEXT.items()}
    known = [word for word, _ in Counter(["<unk>", *read["train"]]).most_common(most)]
    numbers = {word: number for number, word in enumerate(known)}

    def passages(said: list[str]) -> Dataset:
        ids = np.array([numbers.get(word, numbers["<unk>"]) for word in said[: len(said) // PASSAGE * PASSAGE]])
        rows = ids.reshape(-1, PASSAGE)
        return Dataset.from_dict({"input_ids": rows, "labels": rows}).with_format("torch")

    return DatasetDict({split: passages(said) for split, said in read.items()}), known


def read_drawings(folder: Path, tokenizer: Any) -> tuple[DatasetDict, list[str]]:
    """Both artists' drawings, (3, 32, 32) from -1 to 1, the words as token ids, and the names of the categories."""
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    drawn = np.load(folder / "images_32.npz")
    names = sorted({row["category"] for row in meta})

    def rows(split: str) -> Dataset:
        own = [number for number, row in enumerate(meta) if row["split"] == split]
        said = [f"{meta[number]['name']}: {', '.join(meta[number]['keywords'])}" for number in own]
        seen = {
            column: (drawn[artist][own].transpose(0, 3, 1, 2) / 127.5 - 1).astype(np.float32)
            for column, artist in (("pixel_values", "twitter"), ("other_drawing", "google"))
        }
        columns = {**tokenizer(said, truncation=True, max_length=32), **seen}
        return Dataset.from_dict({**columns, "labels": [names.index(meta[number]["category"]) for number in own]})

    return DatasetDict(train=rows("train"), test=rows("test")), names


def read_sentences(folder: Path, tokenizer: Any) -> Dataset:
    """The questions as token ids."""
    with open(folder / "train.csv", encoding="utf-8", newline="") as opened:
        rows = list(csv.DictReader(opened))
    names = sorted({row["category"] for row in rows})
    columns = dict(tokenizer([row["text"] for row in rows], truncation=True, max_length=32))
    return Dataset.from_dict({**columns, "labels": [names.index(row["category"]) for row in rows]})


# ---- figures -------------------------------------------------------------------------------------------------------


def quiet(trainer: Any) -> None:
    """Without the Trainer's own lines."""
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)


def compute_metrics(prediction: Any) -> dict[str, float]:
    """Accuracy and macro F1."""
    quality = for_task(Task.SINGLE_LABEL)
    return quality.compute(predictions=prediction.predictions, references=prediction.label_ids)


@torch.no_grad()
def answers(model: nn.Module, rows: Dataset, collate: Any) -> Any:
    """Inputs and logits, batch by batch and in the order of the rows."""
    plain = rows.remove_columns([name for name in rows.column_names if name == "labels"])
    for inputs in DataLoader(plain, 256, collate_fn=collate):
        yield inputs, model.eval()(**inputs).logits


def logits_of(model: nn.Module, rows: Dataset, collate: Any) -> Tensor:
    """What a model says of rows, (rows, labels)."""
    return torch.cat([said for _, said in answers(model, rows, collate)])


def figures(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """How often the largest logit is right, and how surprised the model is by the labels, in nats."""
    right = (logits.argmax(-1) == labels).float().mean()
    return {"accuracy": right.item(), "surprise": F.cross_entropy(logits, labels).item()}


@torch.no_grad()
def embeddings(model: nn.Module, rows: Dataset, collate: Any) -> Tensor:
    """The mean over the tokens of each row, (rows, width)."""
    found = []
    for inputs in DataLoader(rows.remove_columns("labels"), 256, collate_fn=collate):
        found.append(Batch(inputs, Task.EMBEDDING).pool(model.eval()(**inputs).last_hidden_state, "mean"))
    return torch.cat(found)


def nearest_agree(vectors: Tensor, labels: Any) -> float:
    """Share of the rows whose nearest other row, by cosine, has their label."""
    unit = F.normalize(vectors, dim=-1)
    nearest = (unit @ unit.T).fill_diagonal_(-torch.inf).argmax(-1)
    known = torch.tensor(labels[:])
    return (known[nearest] == known).float().mean().item()
