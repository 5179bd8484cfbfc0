"""Teachers that change, on one process or two: what a student and its teacher became.

    torchrun --nproc_per_node 2 tests/teachers/processes.py FOLDER

writes FOLDER/results.pt. The tests run it, and the same on one process with twice the batch.
"""

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parents[1]))
from distributed import collate, rows, student, trainer_of, weights_of

from hf_distill.losses import SoftTargets, TaskLoss
from hf_distill.teachers import EMATeacher, PastSelf, PeerTeacher, Teacher


def peers() -> PeerTeacher:
    return PeerTeacher([student("one label", hidden_size=16 * (2 + extra)) for extra in range(2)])


def outcome(folder: Path, name: str, batch: int) -> dict[str, Any]:
    """A step of 8 rows, three epochs of 16 that are shuffled; what each process ends with."""
    model = student("one label")
    teacher: Teacher = {"ema": lambda: EMATeacher(model, 0.5), "past": PastSelf, "peers": peers}[name]()
    losses = [TaskLoss(), SoftTargets(temperature=1.0)]
    settings = {"per_device_train_batch_size": batch, "num_train_epochs": 3, "max_grad_norm": 0.2}
    others = {"teacher": teacher, "eval_dataset": None, "data_collator": collate}
    trainer = trainer_of(folder, losses, model, "one label", train=rows(16, "one label"), others=others, **settings)
    trainer.train()
    state = teacher.state()
    if name == "past":  # in no order
        order = sorted(range(len(state["keys"])), key=lambda row: state["keys"][row].tolist())
        state = {key: value[order] for key, value in state.items()}
    flat = torch.cat([value.flatten().double() for value in state.values()])
    every = trainer.accelerator.gather(flat[None])
    return {
        "student": weights_of(trainer),
        "teacher": state,
        "agree": all(torch.equal(each, flat) for each in every),
    }


def all_of(folder: Path, batch: int) -> dict[str, dict[str, Any]]:
    return {name: outcome(folder / name, name, batch) for name in ("ema", "past", "peers")}


if __name__ == "__main__":
    found = all_of(Path(sys.argv[1]), 4)
    if dist.get_rank() == 0:
        torch.save(found, Path(sys.argv[1]) / "results.pt")
    dist.barrier()
    dist.destroy_process_group()
