"""A loop as anybody would write it: the teacher live in every step."""

import torch
from work import Work


def train(work: Work) -> None:
    optimizer = work.optimizer()
    make, arguments = work.schedule()
    schedule = make(optimizer, **arguments)
    work.student.train()
    for _ in range(work.epochs):
        for batch in work.loader():
            inputs = {name: value for name, value in batch.items() if name != "labels"}
            with torch.no_grad():
                theirs = work.teacher(**inputs).logits
            mine = work.student(**(batch if work.task_weight else inputs))
            loss = (1 - work.task_weight) * work.soft_loss(mine.logits, theirs)
            if work.task_weight:
                loss = loss + work.task_weight * mine.loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(work.student.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
