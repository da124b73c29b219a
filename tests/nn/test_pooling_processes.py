"""The batch norm of two processes with half of a batch each against torch's with the whole, gradients included."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed, nn

from svkit.nn.pooling import SynchronisedBatchNorm
from tests.processes import leave, run_in_two

SPLIT, ROWS, CHANNELS = 5, 12, 3
"""Uneven shares: the statistics are those of all rows, not the mean of the shares' statistics."""


def _rows() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    draw = torch.randn(2, ROWS, CHANNELS, generator=generator, dtype=torch.float64)
    return 3 * draw[0] + torch.arange(ROWS)[:, None], draw[1]


def _step(norm: nn.Module, rows: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """One pass forward and back of a loss that sums over the rows, so that shares add up."""
    rows = rows.clone().requires_grad_()
    output = norm(rows)
    (output.sin() * weights).sum().backward()
    assert rows.grad is not None
    gradients = {f"grad_{name}": parameter.grad for name, parameter in norm.named_parameters()}
    found = {"output": output, "grad_rows": rows.grad, **gradients, **dict(norm.named_buffers())}
    return {name: tensor.detach() for name, tensor in found.items()}


def _share(rank: int, folder: str) -> None:
    address = f"file://{folder}/meeting"
    distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    part = slice(None, SPLIT) if rank == 0 else slice(SPLIT, None)
    rows, weights = _rows()
    found = _step(SynchronisedBatchNorm(CHANNELS).double(), rows[part], weights[part])
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, f"{folder}/{rank}.safetensors")
    leave()


def test_two_shares_equal_the_whole(tmp_path: Path) -> None:
    run_in_two(_share, str(tmp_path))
    first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in range(2))
    whole = _step(nn.BatchNorm1d(CHANNELS).double(), *_rows())
    for name in ("output", "grad_rows"):
        torch.testing.assert_close(torch.cat([first[name], second[name]]), whole[name], rtol=1e-9, atol=1e-12)
    for name in ("grad_weight", "grad_bias"):
        torch.testing.assert_close(first[name] + second[name], whole[name], rtol=1e-9, atol=1e-12)
    for share in (first, second):
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            torch.testing.assert_close(share[name], whole[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("training", [True, False])
def test_one_process_is_torchs_own(training: bool) -> None:
    rows, _ = _rows()
    mine, theirs = (
        kind(CHANNELS).double().train(training) for kind in (SynchronisedBatchNorm, nn.BatchNorm1d)
    )
    assert torch.equal(mine(rows), theirs(rows))
    assert torch.equal(mine.running_var, theirs.running_var)
