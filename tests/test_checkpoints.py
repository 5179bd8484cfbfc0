"""The newest checkpoint of a folder."""

from hf_distill import checkpoints


def test_a_checkpoint_that_was_cut_off_is_not_the_newest(tmp_path):
    assert checkpoints.newest(tmp_path) is None
    for name, state in {"2": '{"global_step": 2}', "10": '{"global_step": 10}', "11": '{"glob', "12": "{}"}.items():
        (tmp_path / f"checkpoint-{name}").mkdir()
        (tmp_path / f"checkpoint-{name}" / "trainer_state.json").write_text(state)
    (tmp_path / "checkpoint-13").mkdir()
    assert checkpoints.newest(tmp_path) == str(tmp_path / "checkpoint-10")
