"""Communication hooks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensorlib as tl
import tensorlib.distributed as dist
from tensorlib.distributed import DistributedDataParallel as DDP
from tests.distributed.models import assert_close, batch_of, gradients, mlp, reference
from tests.distributed.test_data_parallel import Branches

several = pytest.mark.skipif(dist.size() == 1, reason="one rank calls no hooks")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    tl.manual_seed(7)


class Waited:
    """What asynchronous collectives return, as far as hooks are concerned."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def wait(self) -> Any:
        return self.value


def blocking(state: Any, bucket: dist.GradBucket) -> tl.Tensor:
    buffer = bucket.buffer().numpy().copy()
    comm = dist.init().comm
    return tl.tensor(comm.allreduce(buffer) / comm.size)


def filled(state: Any, bucket: dist.GradBucket) -> None:
    bucket.set_buffer(blocking(state, bucket))


HOOKS: dict[str, Any] = {
    "allreduce_hook": dist.allreduce_hook,
    "a tensor": blocking,
    "something to wait for": lambda state, bucket: Waited(blocking(state, bucket)),
    "a future's list": lambda state, bucket: Waited([blocking(state, bucket)]),
    "in the buffer": filled,
}


@pytest.mark.parametrize("hook", HOOKS.values(), ids=HOOKS)
@pytest.mark.parametrize("cap", [1e-4, 25], ids=["a bucket each", "one bucket"])
def test_whatever_a_hook_returns(hook: Any, cap: float) -> None:
    module = mlp()
    expected = reference(module, lambda m, rank: [m(batch_of(rank)).square().mean()])
    model = DDP(module, bucket_cap_mb=cap)
    model.register_comm_hook(None, hook)
    for _ in range(2):
        model(batch_of(dist.rank())).square().mean().backward()
        assert_close(gradients(module), expected)
        model.zero_grad()


@pytest.mark.parametrize("hook", [dist.fp16_compress_hook, dist.bf16_compress_hook], ids=lambda hook: hook.__name__)
@pytest.mark.parametrize("cap", [1e-4, 25], ids=["a bucket each", "one bucket"])
def test_compression_rounds_each_contribution_and_the_mean(hook: Any, cap: float) -> None:
    dtype = tl.float16 if hook is dist.fp16_compress_hook else tl.bfloat16
    module = mlp().float()
    x = [batch_of(rank).float() for rank in range(dist.size())]
    parts = [reference_of_one(module, x[rank]) for rank in range(dist.size())]
    model = DDP(module, bucket_cap_mb=cap)
    model.register_comm_hook(None, hook)
    model(x[dist.rank()]).square().mean().backward()
    for name, p in module.named_parameters():
        if dist.size() == 1:
            assert p.grad.equal(parts[0][name]), "on one rank nothing is rounded"
            continue
        total = sum(part[name].to(dtype).float() for part in parts)
        assert p.grad.equal((total * (1 / dist.size())).to(dtype).float()), name


def reference_of_one(module: Any, x: tl.Tensor) -> dict[str, tl.Tensor]:
    module.zero_grad()
    module(x).square().mean().backward()
    found = {name: p.grad.clone() for name, p in module.named_parameters()}
    module.zero_grad()
    return found


def test_unused_parameters_with_a_hook() -> None:
    module = Branches().double()
    used = [[0, 3] if rank else [3, 1] for rank in range(dist.size())]
    expected = reference(module, lambda m, rank: [m(batch_of(rank), used[rank]).square().mean()])
    model = DDP(module, bucket_cap_mb=1e-4)
    model.register_comm_hook(None, dist.allreduce_hook)
    model(batch_of(dist.rank()), used[dist.rank()]).square().mean().backward()
    assert_close(gradients(module), expected)


@several
def test_what_a_hook_is_told() -> None:
    module = mlp()
    model = DDP(module, bucket_cap_mb=1e-4)
    seen: list[dist.GradBucket] = []

    def hook(state: Any, bucket: dist.GradBucket) -> Any:
        assert state == "mine"
        seen.append(bucket)
        return dist.allreduce_hook(None, bucket)

    model.register_comm_hook("mine", hook)
    model(batch_of(dist.rank())).square().mean().backward()
    assert [bucket.index() for bucket in seen] == list(range(len(seen))) and len(seen) > 2
    assert [bucket.is_last() for bucket in seen] == [False] * (len(seen) - 1) + [True]
    assert {id(p) for bucket in seen for p in bucket.parameters()} == {id(p) for p in module.parameters()}
    for bucket in seen:
        for p, g in zip(bucket.parameters(), bucket.gradients(), strict=True):
            assert p.grad.equal(g)
        assert bucket.buffer().sum().item() == pytest.approx(sum(g.sum().item() for g in bucket.gradients()))


@several
def test_hooks_that_fail() -> None:
    module = mlp()
    expected = reference(module, lambda m, rank: [m(batch_of(rank)).square().mean()])
    model = DDP(module, bucket_cap_mb=1e-4)
    calls: list[int] = []

    def hook(state: Any, bucket: dist.GradBucket) -> Any:
        calls.append(bucket.index())
        if len(calls) == 2 and dist.rank() == 1:
            raise ArithmeticError("no")
        return dist.allreduce_hook(None, bucket)

    model.register_comm_hook(None, hook)
    error, words = (ArithmeticError, "no") if dist.rank() == 1 else (RuntimeError, "backward failed on rank 1")
    with pytest.raises(error, match=words):
        model(batch_of(dist.rank())).square().mean().backward()
    model.zero_grad()
    model(batch_of(dist.rank())).square().mean().backward()
    assert_close(gradients(module), expected)


@several
@pytest.mark.parametrize(
    ("result", "got"), [(tl.zeros(3), r"shape \(3,\)"), ("words", "str")], ids=["shape", "type"]
)  # fmt: skip
def test_hooks_that_return_something_else(result: Any, got: str) -> None:
    model = DDP(mlp())
    model.register_comm_hook(None, lambda state, bucket: result)
    with pytest.raises(TypeError, match=f"the communication hook gave {got}, expected a tensor of the buffer's shape"):
        model(batch_of(dist.rank())).square().mean().backward()


def test_hooks_must_be_callable() -> None:
    with pytest.raises(TypeError, match="hook must be callable, got a NoneType"):
        DDP(mlp()).register_comm_hook(None, None)


def test_the_mean_of_large_halves_does_not_overflow() -> None:
    module = tl.nn.Linear(1, 1, bias=False)
    model = DDP(module)
    model.register_comm_hook(None, dist.fp16_compress_hook)
    (model(tl.ones(1, 1)) * 60000).sum().backward()
    np.testing.assert_allclose(module.weight.grad.numpy(), 60000, rtol=1e-3)
