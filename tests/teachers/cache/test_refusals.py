"""Folders that hold something else than what is asked for. With a trainer: see `test_cached` and its refusals."""

from pathlib import Path

import pytest
from runs import exactly

from hf_distill.signals import LOGITS, attention, query, value
from hf_distill.teachers.cache.layout import CLASSES, TOKENS, Layout
from hf_distill.teachers.cache.refusals import check_heads, check_same, check_top_k

FOLDER = Path("answers")
MAPS, RELATED = {attention(0): 1}, {query(1): 12}


@pytest.mark.parametrize(
    ("cached", "here", "said"),
    [
        (MAPS, {}, "attention(0) averaged over 1 group(s) of its 8 heads, and the losses need 8"),
        (MAPS, {attention(0): 2}, "attention(0) averaged over 1 group(s) of its 8 heads, and the losses need 2"),
        (RELATED, {}, "the relations of query(1) in 12 heads, and the losses need more of it than relations"),
        (RELATED, {query(1): 48}, "the relations of query(1) in 12 heads, and the losses need them in 48"),
    ],
)
def test_fewer_heads_than_needed_are_refused_where_they_are_asked_for(cached, here, said):
    with pytest.raises(ValueError, match=exactly(f"answers holds {said}. Cache anew, in another folder.")):
        check_heads(FOLDER, cached, here, 8, ["attention(0)", "query(1)"])
    check_heads(FOLDER, cached, here, 8, ["value(1)"])


def test_as_many_heads_as_needed_are_enough():
    check_heads(FOLDER, MAPS | RELATED, MAPS | RELATED | {value(1): 3}, 8, ["attention(0)", "query(1)", "value(1)"])
    check_heads(FOLDER, {attention(0): 8}, {attention(0): 2}, 8, ["attention(0)"])


def test_other_numbers_of_logits_are_refused_where_there_are_logits():
    logits, classes = Layout(LOGITS, (TOKENS, 5), "float32"), Layout(CLASSES, (TOKENS, 4), "uint16")
    check_top_k(FOLDER, [logits, classes], 4)
    check_top_k(FOLDER, [Layout(query(0), (2, TOKENS, 4), "float32")], 4)
    for layouts, here, found in (([logits, classes], None, "the 4 largest logits"), ([logits], 4, "all logits")):
        with pytest.raises(
            ValueError, match=f"^answers holds {found} of each position, not top_k={here}. Pass top_k="
        ):
            check_top_k(FOLDER, layouts, here)


def test_another_teacher_is_refused_with_the_field_that_differs():
    check_same(FOLDER, {"weights": "a"}, {"weights": "a"})
    message = (
        "answers holds the answers of another teacher: weights is a there and b here. Cache anew, in another folder."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        check_same(FOLDER, {"weights": "a"}, {"weights": "b"})
