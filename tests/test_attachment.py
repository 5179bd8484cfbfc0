import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from distributed import collate, student, teacher, trainer_of
from models import VOCABULARY, tiny
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

from hf_distill import attachment
from hf_distill.losses import HiddenMSE, SoftTargets, TaskLoss

CANARY = "hf_canaryCanaryCANARY0123456789abcdef"
PLAIN = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hf_distill":
            raise ImportError("hf_distill is not installed here")

sys.meta_path.insert(0, Blocked())
import torch
from transformers import AutoModelForSequenceClassification

for folder in sys.argv[2:]:
    model, info = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    assert type(model).__name__ == "BertForSequenceClassification", type(model)
    assert torch.equal(model.eval()(**torch.load(sys.argv[1])["inputs"]).logits, torch.load(sys.argv[1])["logits"])
try:
    import hf_distill
except ImportError:
    print("plain")
"""


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def head() -> nn.Module:
    return nn.ModuleDict({"projection": nn.Linear(2, 3)})


# The parts


def test_the_objective_is_a_part_while_it_is_attached() -> None:
    model, objective = Small(), head()
    plain = list(model.state_dict())
    attachment.attach(model, objective, torch.device("cpu"))
    assert list(model.state_dict()) == [*plain, "objective.projection.weight", "objective.projection.bias"]
    assert {"objective.projection.weight", "objective.projection.bias"} <= model._keys_to_ignore_on_save
    with attachment.detached(model):
        assert list(model.state_dict()) == plain
    assert model.get_submodule("objective") is objective
    with pytest.raises(KeyError), attachment.detached(model):
        raise KeyError
    assert model.get_submodule("objective") is objective
    attachment.attach(model, nn.ModuleDict(), torch.device("cpu"))
    assert list(model.state_dict()) == plain
    attachment.release(model)
    attachment.release(model)
    assert not hasattr(model, "objective")
    with attachment.detached(model):
        assert list(model.state_dict()) == plain


def test_one_call_is_redirected() -> None:
    model, calls = Small(), []

    def run(inner: nn.Module, x: torch.Tensor) -> str:
        calls.append(inner.forward(x))
        return "redirected"

    x = torch.ones(1, 2)
    with attachment.redirected(model, run):
        assert model(x) == "redirected"
        assert torch.equal(model(x), calls[0])
    assert "forward" not in vars(model)

    model.forward = lambda x: "autocast"  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError), attachment.redirected(model, lambda inner, x: 1 / 0):
        model(x)
    with attachment.redirected(model, run):
        pass
    assert model(x) == "autocast"


def test_a_gathered_state_is_split() -> None:
    objective = head()
    gathered = {"layer.weight": torch.ones(1)} | {
        f"objective.{name}": value * 2 for name, value in objective.state_dict().items()
    }
    heads = attachment.split_state(objective, gathered)
    assert list(gathered) == ["layer.weight"]
    assert torch.equal(heads["projection.weight"], objective.state_dict()["projection.weight"] * 2)
    assert attachment.split_state(objective, None).keys() == objective.state_dict().keys()


def test_the_objective_goes_to_disk_and_back(tmp_path: Path) -> None:
    mine, other = head(), head()
    attachment.save_beside(mine.state_dict(), {}, tmp_path)
    attachment.load_objective(other, tmp_path)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in mine.state_dict().items())
    attachment.save_beside({}, {}, tmp_path / "nowhere")
    attachment.load_objective(nn.ModuleDict(), tmp_path / "nowhere")


def test_a_student_is_reloaded_as_it_is_and_strictly(tmp_path: Path) -> None:
    saved, other = student(), student()
    saved.save_pretrained(tmp_path)
    with torch.no_grad():
        next(other.parameters()).zero_()
    attachment.reload(other, str(tmp_path))
    assert all(torch.equal(value, saved.state_dict()[name]) for name, value in other.state_dict().items())
    with pytest.raises(ValueError, match=f"the checkpoint {tmp_path.name} does not hold this student"):
        attachment.reload(tiny("distilbert", "ForSequenceClassification"), str(tmp_path))


# What is on disk


def tokenizer() -> PreTrainedTokenizerFast:
    words = {f"w{index}": index for index in range(VOCABULARY - 2)} | {
        "[PAD]": VOCABULARY - 2,
        "[UNK]": VOCABULARY - 1,
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="[UNK]")), pad_token="[PAD]", unk_token="[UNK]"
    )


def test_what_is_saved_is_a_plain_student(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUB_TOKEN"):
        monkeypatch.setenv(name, CANARY)
    trainer = trainer_of(
        tmp_path / "out",
        [HiddenMSE(), SoftTargets(), TaskLoss()],
        others={"processing_class": tokenizer()},
        hub_token=CANARY,
        hub_model_id="someone/something",
        save_strategy="epoch",
        eval_strategy="epoch",
        load_best_model_at_end=True,
    )
    trainer.train()
    trainer.save_model()
    trainer.save_model(str(tmp_path / "elsewhere"))
    trainer.model.save_pretrained(tmp_path / "direct")
    trainer.accelerator.unwrap_model(trainer.model_wrapped).save_pretrained(tmp_path / "unwrapped")
    trainer.create_model_card()
    trainer.save_state()

    weights, config = {"model.safetensors"}, {"config.json"}
    beside = {"tokenizer.json", "tokenizer_config.json"}
    found = {path.name for path in (tmp_path / "elsewhere").iterdir()}
    assert found == weights | config | beside
    assert {path.name for path in (tmp_path / "direct").iterdir()} == weights | config
    checkpoints = sorted((tmp_path / "out").glob("checkpoint-*"))
    assert len(checkpoints) == 2
    assert all((checkpoint / "objective.safetensors").exists() for checkpoint in checkpoints)

    plain = student().state_dict()
    for folder in (tmp_path / "out", tmp_path / "elsewhere", tmp_path / "direct", tmp_path / "unwrapped"):
        saved = load_file(folder / "model.safetensors")
        assert saved.keys() == plain.keys()
        assert all(value.shape == plain[name].shape for name, value in saved.items())
        assert "objective" not in (folder / "config.json").read_text()
        assert not (folder / "objective.safetensors").exists()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 20
    assert not [path for path in files if path.name == "training_args.bin"]
    assert not [path for path in files if CANARY.encode() in path.read_bytes()]
    theirs = {value.numpy().tobytes() for value in teacher().state_dict().values() if value.numel() > 100}
    for path in (path for path in files if path.suffix == ".safetensors"):
        assert not any(value.numpy().tobytes() in theirs for value in load_file(path).values())
    assert trainer.args.hub_token == CANARY  # still there for the push

    batch = collate(list(trainer.eval_dataset))
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        logits = trainer.model.eval()(**inputs).logits
    torch.save({"inputs": inputs, "logits": logits}, tmp_path / "expected.pt")
    folders = [str(tmp_path / name) for name in ("out", "elsewhere", "direct", str(checkpoints[-1]))]
    done = subprocess.run(
        [sys.executable, "-c", PLAIN, str(tmp_path / "expected.pt"), *folders],
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "plain", done.stderr[-3000:]


@pytest.mark.parametrize("bias", ["none", "all"])
def test_what_is_saved_of_adapters_is_plain(tmp_path: Path, bias: Any) -> None:
    lora = LoraConfig(task_type="SEQ_CLS", r=4, lora_dropout=0.0, bias=bias)
    trainer = trainer_of(
        tmp_path / "out", [HiddenMSE(), SoftTargets()], others={"peft_config": lora}, hub_token=CANARY, max_steps=1
    )
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    trainer.model.save_pretrained(tmp_path / "direct")
    for folder in [tmp_path / "saved"] + [tmp_path / "direct"] * (bias == "none"):
        names = {path.name for path in folder.iterdir()}
        assert {"adapter_model.safetensors", "adapter_config.json"} <= names <= names | {"README.md"}
        assert not names & {"training_args.bin", "objective.safetensors", "model.safetensors"}
        saved = load_file(folder / "adapter_model.safetensors")
        assert any("lora_A" in name for name in saved)
        assert not any("objective" in name for name in saved)
        assert not any(CANARY.encode() in path.read_bytes() for path in folder.iterdir())
    batch = collate(list(trainer.eval_dataset))
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    student().save_pretrained(tmp_path / "base")
    base = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base")
    loaded = PeftModel.from_pretrained(base, tmp_path / "saved").eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).logits, trainer.model.eval()(**inputs).logits, rtol=0, atol=1e-6)


def test_a_student_is_plain_after_training_for_those_who_save_it_themselves(tmp_path: Path) -> None:
    """PEFT saves biases by their names and asks nobody what to leave out."""
    config = LoraConfig(task_type="SEQ_CLS", r=2, bias="all")
    trainer = trainer_of(tmp_path, [HiddenMSE()], others={"peft_config": config}, max_steps=1)
    trainer.train()
    trainer.model.save_pretrained(tmp_path / "own")
    assert not [name for name in load_file(tmp_path / "own" / "adapter_model.safetensors") if "objective" in name]
    fresh = student()
    plain = trainer_of(tmp_path, [HiddenMSE()], student(), max_steps=1)
    plain.train()
    fresh.load_state_dict(plain.model.state_dict())
    assert plain.model.num_parameters() == fresh.num_parameters()
