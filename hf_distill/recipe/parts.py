"""The parts of a recipe: their keys, what those mean, and what goes together."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Part(BaseModel):
    """A map in a recipe; a key that it does not know is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=())


Truth = Annotated[bool, Field(strict=False)]  # YAML 1.2 reads `yes` as a word; people mean true


Layers = Annotated[list[int], Field(min_length=1)] | Annotated[int, Field(ge=1)]


class NamedSpec(Part):
    """A scheme or a kind of teacher: its name, and its own knobs by their own names."""

    model_config = ConfigDict(extra="allow")

    name: str = Field(min_length=1, description="what it is called in `hf_distill.schemes` or `hf_distill.teachers`")

    @property
    def arguments(self) -> dict[str, Any]:
        """What it is called with, as written."""
        return dict(self.model_extra or {})


class TeacherSpec(Part):
    """Who teaches. A model, unless its kind is made of something else or the scheme does without."""

    model: str | None = Field(
        None, min_length=1, description="a folder (the recipe's own folder is tried first), or a Hub id"
    )
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = Field(
        "float32",
        description="what the weights are loaded as; `auto` keeps what is stored, and float16 crawls on a CPU",
    )
    quantize: Literal["int8"] | None = Field(
        None, description="`int8`: the linear layers of its blocks multiply in int8, through torchao"
    )
    cache: str | None = Field(
        None,
        min_length=1,
        description="a folder for the teacher's answers: it is asked once about each example, and read from there in "
        "every epoch and every later run",
    )
    cache_dtype: Literal["float32", "float16"] = Field("float32", description="of the numbers in that folder")
    cache_top_k: int | None = Field(
        None,
        ge=1,
        description="keep so many of the largest logits of each example there, and the others as one class; for many "
        "classes, and losses that are divergences between softmaxes",
    )
    label_map: Literal["by_name"] | None = Field(
        None,
        description="`by_name` reorders the teacher's logits where the two order the same labels differently",
    )
    text: str | None = Field(
        None,
        min_length=1,
        description="the column that it reads, by its own tokenizer, where that is another than the student's: the "
        "same text in another language, for example (`OtherView`)",
    )
    also: Annotated[list[str], Field(min_length=1)] | None = Field(
        None, description="further models, for a kind that puts several together: folders or Hub ids"
    )
    kind: NamedSpec | None = Field(
        None,
        description="what is made of the model before it teaches: `{name: NoisyTeacher, sigma: 0.1}`; or what teaches "
        "without one: `{name: PastSelf}`, `{name: CallableTeacher, function: my_rules.answer}`",
    )

    @model_validator(mode="after")
    def _about_a_model(self) -> "TeacherSpec":
        for name in sorted(self.model_fields_set - {"model", "kind"}):
            if self.model is None and getattr(self, name) is not None:
                raise ValueError(f"says '{name}' and no 'model', which it is about")
        return self


class StudentSpec(Part):
    """Who learns: `{from: teacher, ...}` is made of the teacher's weights, `{model: ...}` is loaded. Exactly one."""

    from_: Literal["teacher"] | None = Field(None, alias="from", description="`teacher`: copy from the teacher")
    model: str | None = Field(None, min_length=1, description="a folder or a Hub id, with its own tokenizer")
    architecture: Literal["distilbert"] | None = Field(
        None, description="with `from`: another family to map the weights into; none keeps the teacher's"
    )
    layers: Layers | None = Field(
        None, description="with `from`: which blocks to keep, counted from 0, or how many; none keeps all"
    )
    lora: dict[str, Any] | None = Field(
        None,
        description="train low-rank adapters and the head alone, and merge them at the end: `{r: 8}`, or any field of "
        "PEFT's `LoraConfig`",
    )

    @model_validator(mode="after")
    def _one_source(self) -> "StudentSpec":
        if (self.from_ is None) == (self.model is None):
            raise ValueError(
                "says neither 'from' nor 'model'" if self.model is None else "says both 'from' and 'model'"
            )
        for name in ("architecture", "layers"):
            if self.model is not None and getattr(self, name) is not None:
                raise ValueError(f"'{name}' goes with 'from: teacher'; a student that is loaded has its own")
        return self


class DatasetSpec(Part):
    """What is learned from. `hf_distill.data` reads it."""

    path: str = Field(
        min_length=1,
        description="a file, a glob or a folder of tsv, csv, json, jsonl or parquet files (looked for in the recipe's "
        "folder, then in the current one), or a Hub id. Files named train, dev or validation, and test are the splits",
    )
    name: str | None = Field(None, description="the Hub data set's configuration")
    text: str = Field("text", description="the column of texts")
    text_pair: str | None = Field(None, description="the column of second texts")
    labels: str | None = Field("labels", description="the column of labels; null where there are none")
    columns: Annotated[list[str], Field(min_length=1)] | None = Field(
        None, description="the columns' names, for tsv and csv files without a header"
    )
    label_names: Annotated[list[str], Field(min_length=1)] | str | None = Field(
        None, description="what label ids mean: names in order, or a text file with one a line; none asks the data"
    )
    train_split: str | None = Field(None, description="the training split, where it is not called train")
    eval_split: str | None = Field(
        None, description="the validation split, where it is not called validation, dev or val"
    )
    test_split: str | None = Field(None, description="the test split, where it is not called test")
    eval_fraction: float = Field(
        0.1, ge=0, lt=1, description="how much of train is held out without a validation split"
    )
    max_length: int | None = Field(
        None, ge=1, description="cut texts to so many tokens; none takes the tokenizer's limit"
    )
    max_train_rows: int | None = Field(None, ge=1, description="take so many training rows, drawn with a fixed seed")
    max_eval_rows: int | None = Field(None, ge=1, description="take so many validation and test rows, likewise")
    license: str | None = Field(None, description="for the model card")
    id: str | None = Field(None, description="the Hub id that the model card names, where `path` is a local copy")


class LossSpec(NamedSpec):
    """One loss: its class in `hf_distill.losses`, and the class's arguments (`weight` is one) by their own names."""

    name: str = Field(
        min_length=1, description="a class in `hf_distill.losses`; a dotted path where custom code is allowed"
    )


class PushSpec(Part):
    """Where the finished student goes on the Hub."""

    repo_id: str = Field(pattern=r"^[\w.-]+(/[\w.-]+)?$", description="`name` or `owner/name`")
    private: Truth = Field(False, description="whether only its owner sees it")
