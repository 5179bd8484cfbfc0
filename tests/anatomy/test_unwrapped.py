"""The model inside a wrapper."""

from models import tiny
from peft import LoraConfig, get_peft_model

from hf_distill.anatomy import unwrap


def test_a_model_is_itself_and_a_peft_model_its_base():
    model = tiny("bert")
    assert unwrap(model) is model
    assert unwrap(get_peft_model(model, LoraConfig(target_modules=["query"]))) is model
