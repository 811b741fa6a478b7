"""Leaving the processes that train together."""

from __future__ import annotations

import weakref
from pathlib import Path

import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from bixt3d.training.distributed import leave_workers


def test_leaving_ends_the_group_that_a_model_in_a_cycle_holds(tmp_path: Path) -> None:
    """Its threads would meet an interpreter that has ended, and abort a training that is done."""
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    wrapped = DistributedDataParallel(nn.Linear(2, 2))
    wrapped.state = [wrapped]
    seen = weakref.ref(wrapped)
    del wrapped
    assert seen() is not None
    leave_workers()
    assert seen() is None and not dist.is_initialized()
    leave_workers()  # nothing is left to leave
