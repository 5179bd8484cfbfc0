import dataclasses
import getpass
import re
import socket
import types
import typing

import pytest
import yaml
from card_facts import HINTON, full
from huggingface_hub import ModelCard

from hf_distill import card, privacy
from hf_distill.card import CardFacts
from hf_distill.report import ModelFacts


def snippet(text: str) -> str:
    return re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]


# ---- what it says -------------------------------------------------------------------------------------------------


def test_metadata_of_a_full_card():
    data = card.render(full()).data.to_dict()
    index = data.pop("model-index")
    assert data == {
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "license": "apache-2.0",
        "language": "en",
        "tags": ["knowledge-distillation", "hf-distill", "multi-label", "emotions"],
        "base_model": "someone/encoder",
        "base_model_relation": "finetune",
        "datasets": ["someone/emotions"],
        "metrics": ["mean_average_precision", "f1"],
    }
    (result,) = index[0]["results"]
    assert index[0]["name"] == "emotions-small"
    assert result["dataset"] == {
        "name": "Emotions",
        "type": "someone/emotions",
        "config": "simplified",
        "split": "test",
        "revision": "abc123",
    }
    assert [(m["type"], m["name"], m["value"]) for m in result["metrics"]] == [
        ("mean_average_precision", "mean average precision", 0.54),
        ("f1", "macro f1", 0.5),
        ("f1", "micro f1", 0.6),
    ]


def test_text_of_a_full_card():
    text = card.render(full()).text
    headings = re.findall(r"^## (.*)", text, re.MULTILINE)
    assert headings == ["Use it", "Measured", "Data", "How it was made", "Limits", "Make it again"]
    for said in (
        "A student model (DistilBERT, 3 layers, width 384) for multi-label text classification, distilled from "
        "`someone/emotions-teacher`.",
        "Labels, in the order of the logits: joy, grief, relief.",
        "| distilled student | 17.4 M | 69.5 | 2.00 (0.1) | 0.5400 | 0.5000 | 0.6000 | 0.9700 |",
        "98.2% of the teacher's mean average precision",
        "- Data: Emotions (`someone/emotions`), configuration `simplified`, revision `abc123`\n",
        "- Trained on 43,410 rows of the train split.",
        "measured on 5,426 rows of the test split.",
        "made from `someone/emotions-teacher`",
        "- Weights that came over: embeddings, blocks 0, 2, 4",
        "- Weights that started anew: classifier",
        "| SoftTargets | 0.5 | temperature=2 |",
        "| HiddenMSE | 0.1 | layers={0: 0, 1: 2} |",
        "| optimizer steps | 4,071 |",
        "| learning rate | 5e-05 |",
        "| versions | torch 2.13.0, transformers 5.23.0 |",
        "tuned on the validation split; tune them on your own data",
        "fewer than 20 positives among the evaluated rows, whose own figures say little: relief (0), grief (13).",
        "One run with one seed (7)",
        "the teacher's errors and biases are inherited",
        "```bash\nhf-distill train recipe.yaml\n```",
        "```yaml\ntask: multi_label\nteacher: {model: someone/emotions-teacher}\n```",
    ):
        assert said in text, said
    assert text.count(HINTON) == 1


def test_what_is_not_known_is_left_out():
    rendered = card.render(CardFacts())
    assert rendered.data.to_dict() == {
        "library_name": "transformers",
        "tags": ["knowledge-distillation", "hf-distill"],
    }
    assert re.findall(r"^## (.*)", rendered.text, re.MULTILINE) == ["Limits"]
    assert not re.search(r"None|\bnan\b|\d", rendered.text)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(CardFacts)])
def test_any_one_fact_may_be_missing(field):
    empty = next(getattr(CardFacts(), f.name) for f in dataclasses.fields(CardFacts) if f.name == field)
    text = card.render(full(**{field: empty})).text
    assert "None" not in text.replace("top_k=None", "")
    assert "\n\n\n" not in text


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(CardFacts)])
def test_any_one_fact_may_be_all_there_is(field):
    text = card.render(CardFacts(**{field: getattr(full(), field)})).text
    assert "None" not in text.replace("top_k=None", "")
    assert "\n\n\n" not in text


def test_thresholds_tuned_on_the_split_of_the_table_are_owned_up_to():
    same = card.render(full(thresholds_split="test", selection_split="test")).text
    assert "the same split that the table reports: F1 is optimistic" in same
    assert "The checkpoint was chosen by its figures on the test split" in same
    crossed = card.render(full(thresholds_split="test", thresholds_cross_fitted=True)).text
    assert "The F1 in the table is cross-fitted" in crossed
    assert "optimistic" not in crossed
    assert "cross-fitted" not in card.render(full(thresholds_cross_fitted=True)).text
    assert "optimistic" not in card.render(full(selection_split="validation")).text
    assert "chosen" not in card.render(full(selection_split="validation")).text


def test_no_model_index_without_a_dataset_on_the_hub_or_without_own_figures():
    assert "model-index" not in card.render(full(dataset="data/*.tsv")).data.to_dict()
    assert "model-index" not in card.render(full(dataset=None)).data.to_dict()
    assert "model-index" not in card.render(full(model="another")).data.to_dict()
    infinite = [ModelFacts("distilled student", metrics={"pearson": float("nan"), "mse": 1.0})]
    metrics = card.render(full(models=infinite)).data.to_dict()["model-index"][0]["results"][0]["metrics"]
    assert [metric["type"] for metric in metrics] == ["mse"]


# ---- it survives --------------------------------------------------------------------------------------------------


def test_card_is_written_and_read_back_the_same(tmp_path):
    rendered = card.render(full(models=[]))
    rendered.save(tmp_path / "README.md")
    again = ModelCard.load(tmp_path / "README.md")
    assert again.data.to_dict() == rendered.data.to_dict()
    assert again.text == rendered.text
    assert ModelCard(str(card.render(full()))).data.to_dict() == card.render(full()).data.to_dict()
    yaml.safe_load(str(rendered).split("---\n")[1])


def test_text_that_is_markup_stays_text():
    odd = "a|b\n\n---\n# heading {{ 7 * 7 }} {% raw %}: [x]"
    text = card.render(full(name=odd, labels=[odd], teacher=odd, losses=[{"name": odd, "config": {odd: odd}}])).text
    assert "49" not in text
    assert r"a\|b --- # heading {{ 7 * 7 }} {% raw %}: [x]" in text
    assert not re.search(r"^---$", text, re.MULTILINE)
    recipe = "x: |\n  ```\n  ## not a heading\n  ```\n"
    assert f"````yaml\n{recipe.strip()}\n````" in card.render(full(recipe=recipe)).text


def test_settings_that_are_objects_are_named_by_their_type():
    text = card.render(
        full(losses=[{"name": "Own", "weight": 1.0, "config": {"f": test_text_that_is_markup_stays_text}}])
    )
    assert "| Own | 1.0 | f=function |" in text.text
    many = card.render(full(losses=[{"name": "Own", "config": {"pos_weight": [1.0] * 28}}])).text
    assert "| Own |  | pos_weight=[" + "1, " * 12 + "...] |" in many


# ---- nothing private ----------------------------------------------------------------------------------------------


def poisoned(kind, text):
    """A value of the type of a field with `text` for every string in it."""
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return poisoned(next(option for option in inside if option is not type(None)), text)
    if kind is str:
        return text
    if kind is ModelFacts:
        return ModelFacts(text, 1, 1.0, 1.0, device=text, metrics={text: 1.0})
    if origin is list:
        return [poisoned(inside[0], text)]
    if origin is dict:
        loss = {"name": text, "weight": text, "config": {text: text, "deep": [text]}, "citation": text}
        return loss if inside[1] is typing.Any else {text: poisoned(inside[1], text)}
    return kind(3)


PATHS = (
    "/home/alice/secret-project/run/final",
    "/mnt/nas-alice/secret-project/final/",
    "~/secret-project/alice/final",
    "~alice/secret-project/final",
    "../../alice/secret-project/final",
    r"C:\Users\alice\secret-project\final",
    "D:/alice/secret-project/final",
    r"\\nas\alice\secret-project\final",
    "file:///home/alice/secret-project/final",
    "/home/alice",
    "C:\\Users\\alice\\",
)
SENTENCES = ("{}", "run --out={} now", "see ({}), please", "'{}'", "a:{};b", "alice@gpu-7.example.com:{}")


@pytest.mark.parametrize("sentence", SENTENCES)
@pytest.mark.parametrize("path", PATHS)
def test_a_path_in_every_fact_is_nowhere_in_the_card(path, sentence):
    hints = typing.get_type_hints(CardFacts)
    facts = CardFacts(**{name: poisoned(kind, sentence.format(path)) for name, kind in hints.items()})
    facts.task, facts.model = "multi_label", facts.models[0].name
    content = str(card.render(facts))
    for private in ("alice", "secret-project", "nas", "gpu-7", "/home", "/mnt", "Users"):
        assert private not in content, private
    data = card.render(facts).data.to_dict()
    assert not {"base_model", "base_model_relation", "datasets", "license", "language", "model-index"} & set(data)


def test_of_a_local_model_only_the_last_name_is_shown():
    text = card.render(
        full(teacher="/srv/alice/emotions_teacher/", dataset_name=None, dataset="/srv/alice/tickets/*.tsv")
    )
    assert "distilled from `emotions_teacher`." in text.text
    assert "- Data: tickets" in text.text


def test_a_relative_path_that_exists_is_no_hub_id(tmp_path, monkeypatch):
    (tmp_path / "out" / "teacher").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    rendered = card.render(full(base_model="out/teacher", teacher="out/teacher", dataset="out/teacher"))
    assert not {"base_model", "base_model_relation", "datasets"} & set(rendered.data.to_dict())
    assert "distilled from `teacher`." in rendered.text
    assert "out/teacher" not in str(rendered)


def test_the_model_id_in_the_snippet_is_kept_although_a_folder_has_its_name(tmp_path, monkeypatch):
    (tmp_path / "someone" / "emotions-small").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert 'model="someone/emotions-small"' in card.render(full()).text


def test_names_of_user_and_machine_are_removed_from_prose_and_an_owner_on_the_hub_stays(monkeypatch):
    monkeypatch.setattr(getpass, "getuser", lambda: "alice")
    monkeypatch.setattr(socket, "gethostname", lambda: "gpu-box-7.example.com")
    facts = full(
        command="ssh gpu-box-7 sudo -u alice hf-distill train r.yaml --hub alice/model --out runs/alice/x",
        teacher="/mnt/alice",
        base_model="alice/encoder",
        device="cuda on gpu-box-7.example.com",
    )
    text = card.render(facts).text
    assert "gpu-box" not in text
    assert "--hub alice/model" in text
    assert text.count("alice") == 1
    monkeypatch.setattr(getpass, "getuser", lambda: "root")
    assert "root mean square" in card.render(full(student="root mean square norm")).text


def test_secrets_are_removed(monkeypatch):
    token = "hf_" + "aB3" * 11
    monkeypatch.setenv("MY_API_KEY", "canary-9d81-value")
    facts = full(
        command=f"HF_TOKEN={token} hf-distill train r.yaml --hub-token abc-123-def-456 --name canary-9d81-value",
        recipe="hub_token: abc-123-def-456\ntokenizer: someone/with-1-tokenizer\nmax_token_length: 128\n",
        name=f"{token} canary-9d81-value",
        tags=[token],
    )
    content = str(card.render(facts))
    for secret in (token, "canary", "abc-123"):
        assert secret not in content, secret
    assert card.render(facts).data.tags == ["knowledge-distillation", "hf-distill", "multi-label"]
    assert "tokenizer: someone/with-1-tokenizer\nmax_token_length: 128" in content


def test_a_card_that_slipped_past_the_cleaning_is_not_rendered(monkeypatch):
    monkeypatch.setattr(privacy, "public", lambda text: text)
    with pytest.raises(ValueError, match="the text contains an absolute path"):
        card.render(full(precision="/home/alice/x"))


# ---- the snippet runs ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A student of 12 labels with its thresholds. It states no problem type: pipelines would take the softmax."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import DistilBertConfig, DistilBertForSequenceClassification, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("saved")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "Write", "the", "text", "here", "."]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    names = {i: f"label {i}" for i in range(12)}
    config = DistilBertConfig(vocab_size=9, dim=8, hidden_dim=16, n_layers=1, n_heads=2, id2label=names)
    config.thresholds = [0.0 if i in (2, 10) else 1.0 for i in range(12)]
    DistilBertForSequenceClassification(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("task", ["multi_label", "single_label", "regression"])
def test_the_snippet_runs_with_plain_transformers(saved, monkeypatch, capsys, task):
    monkeypatch.chdir(saved)
    names = {}
    exec(snippet(card.render(CardFacts(task=task, thresholds=[0.5])).text), names)
    printed = capsys.readouterr().out
    if task == "multi_label":
        assert len(names["scores"]) == 12
        assert sorted(names["labels"]) == ["label 10", "label 2"]
        assert 0 < sum(score["score"] for score in names["scores"]) != pytest.approx(1.0)
    assert "label" in printed


def test_the_snippet_without_thresholds_takes_half(saved, monkeypatch):
    monkeypatch.chdir(saved)
    names = {}
    code = snippet(card.render(CardFacts(task="multi_label")).text)
    assert "thresholds" not in code
    exec(code, names)
    assert {score["label"] for score in names["scores"] if score["score"] >= 0.5} == set(names["labels"])
