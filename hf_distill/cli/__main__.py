"""`python -m hf_distill.cli`, which `torchrun -m` needs."""

from hf_distill.cli import main

main()
