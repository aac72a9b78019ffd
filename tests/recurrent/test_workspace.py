"""A buffer is lent to one user at a time, whatever keeps that user alive, and idle memory has a limit."""

from __future__ import annotations

import gc
import os
import sys
import threading

import numpy as np
import pytest
import torch

from tianwen.errors import InputError
from tianwen.recurrent import linear_scan
from tianwen.recurrent.threads import share
from tianwen.recurrent.workspace import ALIGNMENT, SMALL, WORKSPACE, Workspace

LARGE = (SMALL // 4,)  # of float32


def test_a_freed_buffer_is_lent_again_and_a_held_one_is_not():
    space = Workspace(limit=1 << 30)
    first = space.empty(LARGE, torch.float32)
    place = first.data_ptr()
    assert place % ALIGNMENT == 0
    del first
    second = space.empty(LARGE, torch.float32)
    assert second.data_ptr() == place
    assert space.empty(LARGE, torch.float32).data_ptr() != place


@pytest.mark.parametrize("hold", [lambda t: t[5:], lambda t: t.numpy(), lambda t: t.view(2, -1), torch.from_dlpack])
def test_whatever_holds_the_memory_keeps_it(hold):
    space = Workspace(limit=1 << 30)
    tensor = space.empty(LARGE, torch.float32)
    place, holder = tensor.data_ptr(), hold(tensor)
    del tensor
    assert space.empty(LARGE, torch.float32).data_ptr() != place
    del holder
    gc.collect()
    assert space.idle_bytes > 0


def test_what_autograd_saved_is_not_overwritten():
    u = torch.randn(1, 2048, 512, requires_grad=True)
    lam = torch.full((512,), 0.5, requires_grad=True)
    x, _ = linear_scan(u, lam)
    loss = x.sum()
    del x  # the graph alone holds it
    for _ in range(3):
        linear_scan(torch.full_like(u, 1e6), lam.detach())
    loss.backward()
    again = torch.autograd.grad(linear_scan(u, lam)[0].sum(), lam)[0]
    assert torch.equal(lam.grad, again)


def test_idle_memory_has_a_limit():
    space = Workspace(limit=3 * SMALL)
    tensors = [space.empty(LARGE, torch.float32) for _ in range(8)]
    del tensors
    assert 0 < space.idle_bytes <= 3 * SMALL
    space.set_limit(0)
    assert space.idle_bytes == 0
    with pytest.raises(InputError, match="at least 0"):
        space.set_limit(-1)


def test_sizes_that_are_close_share_a_buffer():
    space = Workspace(limit=1 << 30)
    place = space.empty((SMALL,), torch.float32).data_ptr()
    assert space.empty((SMALL - 1000,), torch.float32).data_ptr() == place


def test_threads_never_share_a_buffer():
    space = Workspace(limit=1 << 30)
    wrong: list[int] = []

    def use(mark: int) -> None:
        for _ in range(50):
            tensor = space.empty(LARGE, torch.float32)
            tensor[:100] = mark
            if (tensor[:100] != mark).any():
                wrong.append(mark)

    users = [threading.Thread(target=use, args=(mark,)) for mark in range(4)]
    for user in users:
        user.start()
    for user in users:
        user.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork") or sys.platform == "darwin", reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_scans_too():
    u, lam = torch.randn(8, 1024, 512), torch.rand(512)
    expected, _ = linear_scan(u, lam)
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)  # torch's own threads do not survive a fork
        os._exit(0 if torch.equal(linear_scan(u, lam)[0], expected) else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(not hasattr(os, "fork") or sys.platform == "darwin", reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_forked_while_another_thread_takes_a_buffer_is_not_stuck():
    with WORKSPACE._lock:  # as another thread holds it that the child does not have
        child = os.fork()
        if child == 0:
            os._exit(0 if WORKSPACE._lock.acquire(timeout=2) else 1)
        assert os.waitpid(child, 0)[1] == 0


def test_shares_raise_the_first_error_after_all_have_ended():
    ended = np.zeros(3)

    def work(part: int, parts: int) -> None:
        assert parts == 3
        ended[part] = 1
        if part == 1:
            raise ValueError("one of them")

    with pytest.raises(ValueError, match="one of them"):
        share(work, 3)
    assert ended.all()
