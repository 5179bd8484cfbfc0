"""The cards in model_cards/ were made by the package from real runs; what is published of them must hold."""

import re
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from hf_distill import recipe as recipes
from hf_distill.card import check

CARDS = sorted((Path(__file__).parent.parent / "model_cards").glob("*.md"))


def test_there_is_a_card():
    assert CARDS


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_a_card_passes_the_checks_of_the_hub(path):
    card = ModelCard.load(path)
    check(card)
    assert card.data.library_name == "transformers"
    assert card.data.to_dict().get("base_model_relation", "finetune") == "finetune"


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_a_card_shows_first_how_to_load(path):
    text = ModelCard.load(path).text
    first = text.split("```python\n")[1].split("```")[0]
    compile(first, str(path), "exec")
    assert "from transformers import" in first
    assert "hf_distill" not in first
    assert text.index("```python") < text.index("## Measured")


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_the_recipe_in_a_card_is_a_recipe(path):
    written = re.search(r"```yaml\n(.*?)```", ModelCard.load(path).text, re.DOTALL)
    assert written is not None
    assert recipes.parse(written.group(1)).baseline


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_a_card_compares_teacher_student_alone_and_distilled_student(path):
    rows = [line for line in ModelCard.load(path).text.splitlines() if line.startswith("| ")]
    named = " ".join(rows)
    for name in ("teacher", "student alone", "distilled student"):
        assert name in named
