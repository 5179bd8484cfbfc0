"""Texts that nobody wrote: sampled from a masked or a causal language model, or random tokens."""

import zlib
from typing import Any

import torch
from torch import Tensor, nn


def random_tokens(tokenizer: Any, rows: int, length: int, seed: int = 0) -> list[list[int]]:
    """Rows of tokens drawn alike from the vocabulary, with the tokenizer's special tokens around them: the baseline.

    Args:
        tokenizer: knows the vocabulary.
        rows: how many.
        length: tokens of the longest row, special ones included; the number of drawn ones is 1 to what is left.
        seed: of the draws.
    """
    generator, (first, last) = _generator(seed, "random tokens"), _around(tokenizer)
    words = torch.tensor(sorted(set(range(len(tokenizer))) - set(tokenizer.all_special_ids)))
    most = _room(length, first, last)
    found = []
    for _ in range(rows):
        count = int(torch.randint(1, most + 1, (), generator=generator))
        found.append([*first, *words[torch.randint(len(words), (count,), generator=generator)].tolist(), *last])
    return found


@torch.no_grad()
def from_masked_lm(
    model: nn.Module,
    tokenizer: Any,
    rows: int,
    length: int,
    sweeps: int = 2,
    at_once: int = 4,
    temperature: float = 1.0,
    batch_size: int = 64,
    seed: int = 0,
) -> list[str]:
    """Fills rows of masks: some positions at a time, in random order, from the model's own distribution.

    The first sweep fills every mask; a later one masks and draws each position anew, with all others there (Gibbs).

    Args:
        model: a masked language model, in eval mode, where it is.
        tokenizer: its own.
        rows: how many.
        length: tokens of a row, special ones included.
        sweeps: how often each position is drawn.
        at_once: positions that are drawn together, each as if the others of them were masked.
        temperature: divides the logits; below 1 texts are more alike.
        batch_size: rows at a time.
        seed: of the draws.

    Returns:
        The texts.

    Reference: Wang and Cho 2019, arXiv:1902.04094.
    Differs from it: several positions at once, and each position once a sweep.
    """
    if tokenizer.mask_token_id is None:
        raise ValueError("the tokenizer has no mask token, so there is nothing to fill. Take a masked language model.")
    generator, (first, last) = _generator(seed, "masked lm"), _around(tokenizer)
    device, words = next(model.parameters()).device, _room(length, first, last)
    special, found = torch.tensor(tokenizer.all_special_ids), []
    for start in range(0, rows, batch_size):
        count = min(batch_size, rows - start)
        ids = torch.full((count, length), tokenizer.mask_token_id)
        ids[:, : len(first)], ids[:, length - len(last) :] = torch.tensor(first), torch.tensor(last)
        for _ in range(sweeps):
            order = torch.rand(count, words, generator=generator).argsort(1) + len(first)
            for places in order.split(at_once, dim=1):
                ids.scatter_(1, places, tokenizer.mask_token_id)
                logits: Tensor = model(input_ids=ids.to(device)).logits.float().cpu()
                here = logits.gather(1, places[:, :, None].expand(-1, -1, logits.shape[-1])) / temperature
                here[..., special] = float("-inf")
                drawn = torch.multinomial(here.softmax(-1).flatten(0, 1), 1, generator=generator)
                ids.scatter_(1, places, drawn.view_as(places))
        found += tokenizer.batch_decode(ids, skip_special_tokens=True)
    return found


@torch.no_grad()
def from_causal_lm(
    model: Any,
    tokenizer: Any,
    rows: int,
    length: int,
    temperature: float = 1.0,
    batch_size: int = 64,
    seed: int = 0,
) -> list[str]:
    """Lets a causal language model write, from its own first token on.

    Args:
        model: in eval mode, where it is.
        tokenizer: its own.
        rows: how many.
        length: new tokens of a row at most.
        temperature: divides the logits; below 1 texts are more alike.
        batch_size: rows at a time.
        seed: of the draws.

    Returns:
        The texts.

    Raises:
        ValueError: the tokenizer has no token that a text begins with.
    """
    begins = next((each for each in (tokenizer.bos_token_id, tokenizer.eos_token_id) if each is not None), None)
    if begins is None:
        raise ValueError("the tokenizer has neither bos_token nor eos_token, so no text can begin. Set bos_token.")
    device, found = next(model.parameters()).device, []
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else begins
    with torch.random.fork_rng():
        torch.manual_seed(zlib.crc32(f"{seed} causal lm".encode()))
        for start in range(0, rows, batch_size):
            ids = torch.full((min(batch_size, rows - start), 1), begins, device=device)
            made = model.generate(
                inputs=ids,
                do_sample=True,
                temperature=temperature,
                top_k=0,
                max_new_tokens=length,
                pad_token_id=padding,
            )
            found += tokenizer.batch_decode(made, skip_special_tokens=True)
    return found


def _around(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The special tokens before and after a text."""
    ids: list[int] = tokenizer("a")["input_ids"]
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    inside = [place for place, each in enumerate(ids) if each not in special]
    return (ids[: inside[0]], ids[inside[-1] + 1 :]) if inside else (ids, [])


def _room(length: int, first: list[int], last: list[int]) -> int:
    room = length - len(first) - len(last)
    if room < 1:
        raise ValueError(f"length is {length}, and special tokens alone are {length - room}. Make it longer.")
    return room


def _generator(seed: int, what: str) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(f"{seed} {what}".encode()))
