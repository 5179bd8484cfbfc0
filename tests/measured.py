"""A tiny module to be measured, and facts as if three models had been."""

import torch
from torch import nn

from hf_distill.report import ModelFacts


class Tiny(nn.Module):
    """Tied weights, a persistent buffer and one that is not, a dropout, and a forward that names its inputs."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, width)
        self.middle = nn.Linear(width, width)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(width, 50, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("scale", torch.ones(3, dtype=torch.float64))
        self.register_buffer("scratch", torch.ones(1000), persistent=False)
        self.seen: list[tuple[bool, bool, bool]] = []

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        self.seen.append((self.training, self.dropout.training, torch.is_inference_mode_enabled()))
        return self.head(self.dropout(self.middle(self.embedding(input_ids)))) * attention_mask[..., None]


INPUTS = {
    "input_ids": torch.ones(4, 6, dtype=torch.long),
    "attention_mask": torch.ones(4, 6),
    "token_type_ids": torch.zeros(4, 6, dtype=torch.long),
}


def three() -> list[ModelFacts]:
    measured = {"batch_size": 8, "threads": 1, "device": "cpu"}
    return [
        ModelFacts("teacher", 22_700_000, 90.9, 4.0, 0.08, **measured, metrics={"macro_f1": 0.6, "mse": 0.1}),
        ModelFacts(
            "student alone",
            17_400_000,
            69.5,
            2.0,
            0.05,
            **measured,
            metrics={"macro_f1": 0.5, "mse": 0.2},
            agreement=0.9,
        ),
        ModelFacts(
            "distilled student",
            17_400_000,
            69.5,
            2.0,
            0.05,
            **measured,
            metrics={"macro_f1": 0.57, "mse": 0.3},
            agreement=0.95,
        ),
    ]
