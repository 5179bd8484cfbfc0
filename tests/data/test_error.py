"""One error for all that is wrong with the data; a value in it never fills the screen."""

from hf_distill.data.error import DataError, short


def test_a_value_is_shown_as_python_writes_it_and_cut() -> None:
    assert short("a\tb") == "'a\\tb'"
    assert short(None) == "None"
    assert short("x" * 99) == f"'{'x' * 46}..."


def test_it_is_a_value_error_of_one_message() -> None:
    assert isinstance(DataError("no rows"), ValueError)
    assert str(DataError("no rows")) == "no rows"
