"""Text that stays text."""

from hf_distill.report.markdown import cell, fenced


def test_a_cell_is_one_line_and_ends_no_column():
    assert cell("a|b\n\n c") == r"a\|b c"
    assert cell(0.5) == "0.5"


def test_a_fence_is_longer_than_any_in_the_text():
    assert fenced("x\n", "yaml") == "```yaml\nx\n```"
    assert fenced("```\n`````\n", "yaml") == "``````yaml\n```\n`````\n``````"
