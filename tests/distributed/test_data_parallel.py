"""DistributedDataParallel against one process that trains on the whole batch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensorlib as tl
import tensorlib.distributed as dist
from tensorlib import nn
from tensorlib.distributed import DistributedDataParallel as DDP, buckets
from tensorlib.nn import functional as F
from tests.distributed.models import (
    FREE_CORES,
    assert_close,
    assert_same_everywhere,
    batch_of,
    everywhere,
    gradients,
    mine,
    mlp,
    reference,
    rows,
)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    tl.manual_seed(7)


@pytest.fixture(autouse=True, params=FREE_CORES)
def _free_cores(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets, "cores_are_free", FREE_CORES[request.param])


def trained(model: nn.Module, inner: nn.Module, batch: Callable[[int], tl.Tensor], steps: int = 5) -> nn.Module:
    optimizer = tl.optim.SGD(inner.parameters(), lr=0.1, momentum=0.9)
    for step in range(steps):
        optimizer.zero_grad()
        model(batch(step)).square().mean().backward()
        nn.utils.clip_grad_norm_(inner.parameters(), 0.5)
        optimizer.step()
    return inner


# ---- the same as one process ----
@pytest.mark.parametrize("cap", [None, 1e-4, 0.002], ids=["one bucket", "a bucket each", "some buckets"])
def test_training_equals_that_on_the_whole_batch(cap: float | None) -> None:
    module = mlp()
    alone = trained(whole := copy.deepcopy(module), whole, lambda step: rows(6, step))
    model = DDP(module, bucket_cap_mb=cap)
    trained(model, module, lambda step: mine(rows(6, step)))
    assert_close(
        {name: p.detach().numpy() for name, p in module.named_parameters()},
        {name: p.detach().numpy() for name, p in alone.named_parameters()},
        rtol=1e-9,
    )
    assert_same_everywhere(module)


def test_parameters_and_buffers_come_from_rank_0() -> None:
    tl.manual_seed(dist.rank())
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 2, dtype=tl.bfloat16))
    module[0].weight.data = module[0].weight.detach().T
    module[1].running_mean.fill_(dist.rank())
    DDP(module)
    tl.manual_seed(0)
    expected = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 2, dtype=tl.bfloat16))
    assert module[0].weight.equal(expected[0].weight.T)
    assert module[1].running_mean.tolist() == [0, 0, 0]
    assert module[2].weight.equal(expected[2].weight)


def test_state_dict_has_pytorchs_names() -> None:
    model = DDP(mlp())
    assert list(model.state_dict()) == [f"module.{name}" for name in model.module.state_dict()]
    model.load_state_dict({name: value * 2 for name, value in model.state_dict().items()})
    assert not model.eval().module.training


def test_gradients_are_views_of_buckets_whatever_zero_grad_does() -> None:
    model = DDP(mlp())
    optimizer = tl.optim.SGD(model.parameters(), lr=0.1)
    found = []
    for set_to_none in (True, False, True):
        model(mine(rows(6))).square().mean().backward()
        found.append(gradients(model.module))
        if dist.size() > 1:
            views = {view.data_ptr() for bucket in model._reducer.buckets for view in bucket.gradients()}
            assert {p.grad.data_ptr() for p in model.parameters()} == views
        optimizer.zero_grad(set_to_none)
    model.zero_grad(set_to_none=False)
    model(mine(rows(6))).square().mean().backward()
    found.append(gradients(model.module))
    for other in found[1:]:
        assert_close(other, found[0], 0, 0)


@pytest.mark.parametrize("dtype", [tl.float16, tl.bfloat16], ids=str)
def test_half_precision(dtype: tl.DType) -> None:
    module = nn.Linear(6, 3).to(dtype)
    x = rows(6).to(dtype)
    whole = copy.deepcopy(module)
    whole(x).float().square().mean().backward()
    model = DDP(module)
    model(mine(x)).float().square().mean().backward()
    for p, expected in zip(module.parameters(), whole.parameters(), strict=True):
        np.testing.assert_allclose(p.grad.float().numpy(), expected.grad.float().numpy(), rtol=0.02, atol=0.02)


def test_mixed_dtypes_travel_in_buckets_of_their_own() -> None:
    module = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3).double(), nn.Linear(3, 3)])
    numbers = dist.buckets.in_buckets(list(module.parameters()), 1, 1 << 20)
    assert numbers == [[5], [3, 2], [4, 1, 0]], "in the order in which they are complete"
    assert dist.buckets.in_buckets(list(module.parameters()), 1 << 20, 1 << 20) == [[3, 2], [5, 4, 1, 0]]


@pytest.mark.parametrize("hook", [None, dist.bf16_compress_hook], ids=["", "compressed"])
def test_parameters_on_another_device(hook: Any) -> None:
    tl.manual_seed(dist.rank())
    module = Branches(3).to("reference")
    module.layers[1].cpu()
    model = DDP(module, bucket_cap_mb=1e-4)
    if hook:
        model.register_comm_hook(None, hook)
    assert_same_everywhere(module)
    x = [batch_of(rank).float() for rank in range(dist.size())]

    def loss(m: nn.Module, rank: int) -> list[tl.Tensor]:
        layers = getattr(m, "module", m).layers
        used = [layers[0](x[rank].to("reference")).cpu()] + [layers[1](x[rank])] * (rank == 0)
        return [part.square().mean() for part in used]

    expected = reference(copy.deepcopy(module), lambda m, rank: [sum(loss(m, rank))])
    for _ in range(2):
        sum(loss(model, dist.rank())).backward()
        assert module.layers[0].weight.grad.device.type == "reference"
        assert_close(gradients(module), expected, *((0.02, 0.01) if hook else (1e-5, 1e-6)))
        model.zero_grad()


# ---- backward in all its forms ----
def test_accumulation_with_and_without_no_sync() -> None:
    module = mlp()
    expected = reference(module, lambda m, rank: [m(batch_of(rank, k)).square().mean() for k in range(3)])
    model = DDP(module)
    with model.no_sync():
        for k in range(2):
            model(mine(rows(6, k))).square().mean().backward()
    local = gradients(module)["0.weight"]
    assert len({g.tobytes() for g in everywhere(local)}) == dist.size(), "nothing was averaged yet"
    model(mine(rows(6, 2))).square().mean().backward()
    assert_close(gradients(module), expected)
    model.zero_grad()
    for k in range(3):  # averaged each time: the mean of sums is the sum of means
        model(mine(rows(6, k))).square().mean().backward()
    assert_close(gradients(module), expected)


def test_several_forwards_before_one_backward() -> None:
    module = mlp()
    expected = reference(module, lambda m, rank: [sum(m(batch_of(rank, k)).square().mean() for k in range(3))])
    model = DDP(module, bucket_cap_mb=1e-3)
    sum(model(mine(rows(6, k))).square().mean() for k in range(3)).backward()
    assert_close(gradients(module), expected)


def test_two_backwards_of_one_forward() -> None:
    module = mlp()
    expected = reference(module, lambda m, rank: [m(batch_of(rank)).square().mean() + m(batch_of(rank)).sum()])
    model = DDP(module)
    out = model(mine(rows(6)))
    out.square().mean().backward(retain_graph=True)
    out.sum().backward()
    assert_close(gradients(module), expected)


class Tied(nn.Module):
    """An embedding whose table is the output layer too."""

    def __init__(self, sparse: bool = False) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 4, sparse=sparse)
        self.out = nn.Linear(4, 5, bias=False)
        if not sparse:
            self.out.weight = self.table.weight

    def forward(self, ids: tl.Tensor) -> tl.Tensor:
        return self.out(self.table(ids).tanh())


@pytest.mark.parametrize("sparse", [False, True], ids=["tied", "sparse"])
def test_shared_parameters_and_sparse_gradients(sparse: bool) -> None:
    module = Tied(sparse).double()
    ids = [tl.tensor([rank % 5, 1, 1]) for rank in range(dist.size())]

    def loss(m: nn.Module, rank: int) -> tl.Tensor:
        return F.cross_entropy(m(ids[rank]), ids[rank])

    expected = reference(copy.deepcopy(module if not sparse else _dense(module)), lambda m, rank: [loss(m, rank)] * 1)
    model = DDP(module)
    loss(model, dist.rank()).backward()
    found = {name: p.grad.to_dense().numpy() for name, p in module.named_parameters()}
    assert_close(found, expected)


def _dense(module: Tied) -> Tied:
    module = copy.deepcopy(module)
    module.table.sparse = False
    return module


class Again(tl.autograd.Function):
    """Computes its layer in backward, by a backward of its own, as checkpoints do."""

    @staticmethod
    def forward(ctx: Any, x: tl.Tensor, layer: nn.Module) -> tl.Tensor:
        ctx.save_for_backward(x)
        ctx.layer = layer
        return layer(x)

    @staticmethod
    def backward(ctx: Any, g: tl.Tensor) -> Any:
        x = ctx.saved_tensors[0].detach().requires_grad_()
        with tl.enable_grad():
            out = ctx.layer(x)
        out.backward(g)
        return x.grad, None


def test_a_backward_inside_backward() -> None:
    """What comes from there may come several times, so it is sent at the end."""

    class Checkpointed(Branches):
        def forward(self, x: tl.Tensor, used: list[int]) -> tl.Tensor:
            x = self.layers[0](x)
            for i in used:
                x = Again.apply(x, self.layers[i]).tanh()
            return self.layers[3](x)

    module = Checkpointed().double()
    expected = reference(module, lambda m, rank: [m(batch_of(rank), [1, 2, 1]).square().mean()])
    model = DDP(module, bucket_cap_mb=1e-4)
    for _ in range(2):
        model(mine(rows(6)), [1, 2, 1]).square().mean().backward()
        assert_close(gradients(module), expected)
        model.zero_grad()


@pytest.mark.skipif(dist.size() == 1, reason="one rank sends nothing")
def test_a_gradient_that_comes_after_its_bucket_was_sent_is_an_error() -> None:
    module = Branches(2).double()
    model = DDP(module, bucket_cap_mb=1e-4)
    x = module.layers[0](mine(rows(6)))
    loss = module.layers[1](Again.apply(x, module.layers[1])).sum()  # used outside first, then inside
    with pytest.raises(
        RuntimeError, match=r"parameter layers\.1\.\w+ got another gradient, .* after its bucket was sent"
    ):
        loss.backward()
    assert model is not None


def test_outputs_of_any_form_and_keyword_arguments() -> None:
    class Forms(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 2)

        def forward(self, x: tl.Tensor, *, scale: float) -> dict[str, Any]:
            out = self.layer(x) * scale
            return {"a": out, "rest": [(out * 2,), None, "words"]}

    module = Forms().double()
    expected = reference(module, lambda m, rank: [(m(batch_of(rank), scale=2)["rest"][0][0]).square().mean()])
    model = DDP(module)
    model(mine(rows(6)), scale=2)["rest"][0][0].square().mean().backward()
    assert_close(gradients(module), expected)


# ---- graphs that differ ----
class Branches(nn.Module):
    """Uses those of its layers that it is told to use, in that order."""

    def __init__(self, n: int = 5) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(n))

    def forward(self, x: tl.Tensor, used: list[int]) -> tl.Tensor:
        for i in used:
            x = self.layers[i](x).tanh()
        return x


def test_unused_parameters() -> None:
    module = Branches().double()
    used = [[0, 3] if rank else [3, 1, 3] for rank in range(dist.size())]
    expected = reference(module, lambda m, rank: [m(batch_of(rank), used[rank]).square().mean()])
    assert expected["layers.2.weight"] is None
    model = DDP(module, bucket_cap_mb=1e-4)
    for _ in range(2):
        model(mine(rows(6)), used[dist.rank()]).square().mean().backward()
        assert_close(gradients(module), expected)
        model.zero_grad()


def test_a_rank_that_uses_no_parameter_at_all() -> None:
    module = Branches(2).double()
    used: list[list[int]] = [[] if rank == 0 and dist.size() > 1 else [0] for rank in range(dist.size())]

    def loss(m: nn.Module, rank: int) -> list[tl.Tensor]:
        x = batch_of(rank).requires_grad_()
        return [m(x, used[rank]).square().mean()]

    expected = reference(module, loss)
    model = DDP(module)
    loss(lambda x, used: model(x * 1, used), dist.rank())[0].backward()  # type: ignore[arg-type]
    assert_close(gradients(module), expected)


@pytest.mark.parametrize("seed", range(5))
def test_random_graphs(seed: int) -> None:
    """Subsets of layers in random order, different on each rank, with no_sync, several forwards and accumulation thrown in."""
    module = Branches(6).double()
    model = DDP(module, bucket_cap_mb=float(np.random.default_rng(seed).choice([1e-4, 6e-4, 25])))
    shared = np.random.default_rng(seed)
    for step in range(6):
        forwards, backwards = int(shared.integers(1, 3)), int(shared.integers(1, 4))
        paths = [
            [
                [np.random.default_rng([seed, step, rank, b, f]).integers(0, 6, 1 + (step + rank) % 4).tolist() for f in range(forwards)]
                for b in range(backwards)
            ]
            for rank in range(dist.size())
        ]  # fmt: skip

        def loss(m: Any, rank: int, b: int, step: int = step, paths: Any = paths) -> tl.Tensor:
            return sum(m(batch_of(rank, step + b), path).square().mean() for path in paths[rank][b])

        expected = reference(module, lambda m, rank, n=backwards, loss=loss: [loss(m, rank, b) for b in range(n)])
        with model.no_sync():
            for b in range(backwards - 1):
                loss(model, dist.rank(), b).backward()
        loss(model, dist.rank(), backwards - 1).backward()
        assert_close(gradients(module), expected)
        model.zero_grad(set_to_none=bool(shared.integers(2)))
        if shared.integers(2):
            model.zero_grad()
        else:
            module.zero_grad(set_to_none=True)


def test_frozen_later() -> None:
    module = mlp()
    model = DDP(module, bucket_cap_mb=1e-4)
    module[2].requires_grad_(False)
    expected = reference(module, lambda m, rank: [m(batch_of(rank)).square().mean()])
    model(mine(rows(6))).square().mean().backward()
    assert_close(gradients(module), expected)
    assert module[2].weight.grad is None


@pytest.mark.skipif(dist.size() == 1, reason="one rank has nothing to keep in step")
def test_thawed_later() -> None:
    module = mlp()
    module[0].requires_grad_(False)
    model = DDP(module)
    module[0].requires_grad_(True)
    with pytest.raises(RuntimeError, match=r"parameter 0\.weight requires a gradient now, but did not when"):
        model(mine(rows(6)))


# ---- overlap ----
@pytest.mark.parametrize("free", [True, False], ids=["free core", "no free core"])
def test_buckets_travel_while_backward_goes_on(free: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last layers' bucket is on its way before the first layers are reached; on one node only if a core is free for it."""
    monkeypatch.setattr(buckets, "cores_are_free", lambda group: free)
    module = nn.Sequential(*[nn.Linear(6, 6) for _ in range(4)]).double()
    model = DDP(module, bucket_cap_mb=1e-4)
    if dist.size() == 1:
        assert model._reducer is None, "one rank needs no buckets"
        return
    reducer, log = model._reducer, []
    complete = buckets.GradBucket.complete
    monkeypatch.setattr(
        buckets.GradBucket, "complete", lambda bucket, *args: (log.append(bucket.index()), complete(bucket, *args))
    )
    x = mine(rows(6))
    for i, layer in enumerate(module):
        x = layer(x)
        x.register_hook(lambda g, i=i: log.append(f"layer {i}"))
    x.sum().backward()
    order = [log.index(f"layer {i}") for i in (3, 2, 1, 0)]
    assert order == sorted(order)
    early = free or dist.node_count() > 1
    assert log.index(0) < log.index("layer 2") if early else log.index(0) > log.index("layer 0"), log
    assert [what for what in log if isinstance(what, int)] == list(range(len(reducer.buckets)))


# ---- errors ----
DIFFERENT: dict[str, tuple[Callable[[bool], nn.Module], str]] = {
    "shape": (
        lambda odd: nn.Sequential(nn.Linear(2, 3 + odd)),
        r"parameter 0\.weight: float32 \(3, 2\) on .*, float32 \(4, 2\) on rank 1; parameter 0\.bias",
    ),
    "dtype": (
        lambda odd: nn.Linear(2, 3, dtype=tl.float64 if odd else tl.float32),
        r"parameter weight: float32 \(3, 2\) on .*, float64 \(3, 2\) on rank 1",
    ),
    "name": (
        lambda odd: nn.ModuleDict({"b" if odd else "a": nn.Linear(2, 3, bias=False)}),
        r"parameter a\.weight: float32 \(3, 2\) on .*, not there on rank 1; parameter b\.weight: not there",
    ),
    "requires_grad": (
        lambda odd: nn.Sequential(nn.Linear(2, 3).requires_grad_(not odd), nn.Linear(3, 3)),
        r"parameter 0\.weight: float32 \(3, 2\) on .*, float32 \(3, 2\) without gradient on rank 1",
    ),
    "buffer": (
        lambda odd: nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3 + odd, affine=False)),
        r"buffer 1\.running_mean: float32 \(3,\) on .*, float32 \(4,\) on rank 1",
    ),
    "order": (
        lambda odd: nn.ModuleDict({name: nn.Linear(2, 2) for name in ("ba" if odd else "ab")}),
        "the same names come in another order",
    ),
    "many": (
        lambda odd: nn.Sequential(*[nn.Linear(2 + odd, 2 + odd) for _ in range(4)]),
        "and 3 more",
    ),
}


@pytest.mark.skipif(dist.size() == 1, reason="one rank has nobody to differ from")
@pytest.mark.parametrize("what", DIFFERENT)
def test_models_that_differ_are_an_error_on_every_rank(what: str) -> None:
    make, words = DIFFERENT[what]
    with pytest.raises(RuntimeError, match=f"DistributedDataParallel: the models differ: .*{words}"):
        DDP(make(dist.rank() == 1))


def test_what_can_not_be_wrapped() -> None:
    with pytest.raises(RuntimeError, match="no parameter of the module requires a gradient"):
        DDP(nn.ReLU())
    with pytest.raises(RuntimeError, match=r"parameter weight has no shape yet"):
        DDP(nn.LazyLinear(3))
    with pytest.raises(TypeError, match="got a list, expected a Module"):
        DDP([])
    with pytest.raises(ValueError, match="bucket_cap_mb must be positive, got 0"):
        DDP(mlp(), bucket_cap_mb=0)
    with pytest.raises(TypeError, match="group must be what new_group returns"):
        DDP(mlp(), process_group="world")


def test_a_backward_that_fails_on_one_rank_fails_on_all_and_the_next_one_works() -> None:
    module = mlp()
    expected = reference(module, lambda m, rank: [m(batch_of(rank)).square().mean()])
    model = DDP(module, bucket_cap_mb=1e-4)
    failing = dist.size() - 1
    out = model(mine(rows(6)))
    if dist.rank() == failing:

        def fail(g: tl.Tensor) -> None:
            raise ArithmeticError("no")

        module[0].weight.register_hook(fail)
        with pytest.raises(ArithmeticError, match="no"):
            out.square().mean().backward()
        tl.autograd.node.hooks_of(module[0].weight).by_output.clear()
    else:
        with pytest.raises(RuntimeError, match=rf"backward failed on rank {failing}, so gradients are not complete"):
            out.square().mean().backward()
    model.zero_grad()
    model(mine(rows(6))).square().mean().backward()
    assert_close(gradients(module), expected)


# ---- its end ----
def test_a_model_outlives_its_wrapper() -> None:
    module = mlp()
    model = DDP(module)
    model(mine(rows(6))).square().mean().backward()
    del model
    module.zero_grad()
    module(mine(rows(6))).square().mean().backward()
    own = gradients(module)["0.weight"]
    assert len({g.tobytes() for g in everywhere(own)}) == dist.size()


def test_many_models_need_few_communicators() -> None:
    before = dist.data_parallel._made.get(dist.init(), 0)
    for _ in range(20):
        DDP(nn.Linear(2, 2))  # gone at once: it is in no cycle
    assert dist.data_parallel._made.get(dist.init(), 0) - before <= 1
