"""What was not computed yet says its shape, and is a tensor to everything else."""

import torch
from torch import Tensor

from hf_distill.uncomputed import Uncomputed


class Sevens(Uncomputed):
    def whole(self) -> Tensor:
        if self.made is None:
            self.made = torch.full(self.shape, 7.0)
        return self.made


def sevens() -> Sevens:
    found: Sevens = Sevens.stand_in((2, 3), torch.float32, torch.device("cpu"))
    return found


def test_what_is_known_beforehand_makes_nothing():
    found = sevens()
    assert (found.shape, found.dim(), found.ndim, found.size(1), len(found)) == ((2, 3), 2, 2, 3, 2)
    assert (found.dtype, found.device, found.is_floating_point()) == (torch.float32, torch.device("cpu"), True)
    assert found.made is None


def test_operations_get_the_tensor_wherever_it_stands():
    plain = torch.full((2, 3), 7.0)
    for operation in (
        lambda x: x + 1,
        lambda x: torch.cat([x, plain]),
        lambda x: torch.where(plain > 0, x, other=0.0),
        lambda x: torch.stack([x, sevens()]),
        lambda x: x.detach(),
        lambda x: x[0],
    ):
        found = operation(sevens())
        assert type(found) is Tensor
        assert torch.equal(found, operation(plain))
    assert sevens().tolist() == plain.tolist()
    assert (sevens().numpy() == 7).all()
