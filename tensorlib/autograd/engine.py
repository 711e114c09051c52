"""backward() and grad(): C walks the tape, and returns here for what only Python can do.

The questions are few (see native/engine.c): run a node's rule or hooks, serve a leaf with hooks, add two gradients or reduce one to its
operand's shape where C does not (another device or dtype, or create_graph, where sums must be recorded too).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any

from tensorlib import dtypes
from tensorlib.backends import FOREIGN, backend
from tensorlib.errors import GradError, ShapeError
from tensorlib.lines import describe, inherited
from tensorlib.native import OBJECTS, ffi, lib
from tensorlib.ops.table import BY_NUMBER, NATIVE_NUMBERS, Op
from tensorlib.sparse import accumulate_rows
from tensorlib.status import checked, raise_run_error, raise_status
from tensorlib.tensor import Tensor, wrap, wrap_gradient

from .node import FUNCTION, Hooks

DONE, SIGNALS, ERROR, ASK_NODE, ASK_ADD, ASK_REDUCE, ASK_LEAF = range(7)
INPUT, OUTPUT, GEOMETRY = 1, 2, 3
_hooked_leaves = 0  # how many tensors ever got leaf hooks: without any, runs need no counting pass


def note_leaf_hooks() -> None:
    global _hooked_leaves
    _hooked_leaves += 1


class _UnderWay(threading.local):
    """The calls of `backward` that this thread is in, and what is to be called when the outermost one ends."""

    depth = 0
    callbacks: tuple[Callable[[BaseException | None], object], ...] = ()
    retain = False  # whether what nodes keep is asked for again


_under_way = _UnderWay()


def backward_depth() -> int:
    """How many calls of `backward` this thread is in: 0 outside, and, in a hook, 2 where a rule of a custom `Function` called `backward` itself.

    >>> tl.autograd.backward_depth()
    0
    """
    return _under_way.depth


def on_backward_end(callback: Callable[[BaseException | None], object]) -> None:
    """Have ``callback(error)`` called once when the backward ends that a hook calls this from: by then every gradient is in its `.grad`.

    `error` is None, or what ended backward. Of calls of backward in each other, the outermost counts. What a callback raises, that backward raises.

    Raises:
        GradError: outside of `backward`, also under `autograd.grad`, which gives no leaf a gradient.

    >>> x = tl.ones(2, requires_grad=True)
    >>> y = x * 3
    >>> handle = y.register_hook(lambda g: tl.autograd.on_backward_end(lambda error: print(x.grad)))
    >>> y.sum().backward()
    tensor([3., 3.])
    """
    if not _under_way.depth:
        raise GradError("on_backward_end: no backward is under way in this thread.", hint="call it from a hook")
    _under_way.callbacks += (callback,)


def _ended(error: BaseException | None) -> None:
    callbacks, _under_way.callbacks = _under_way.callbacks, ()
    with ExitStack() as stack:  # which calls all of them, whatever they raise
        for callback in reversed(callbacks):
            stack.callback(callback, error)


def backward(
    self: Tensor,
    gradient: Tensor | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Tensor | Sequence[Tensor] | None = None,
) -> None:
    """Add the gradient of this tensor with respect to the graph's leaves into their `.grad`.

    Args:
        gradient: the gradient of this tensor itself, of its shape; may be left out for a tensor with one element.
        retain_graph: keep saved values, so that backward can run again; default: `create_graph`.
        create_graph: record the gradients' own computation, for gradients of gradients. A leaf and its `.grad` then keep each other alive
            until `.grad` is set to None; `autograd.grad` makes no such cycle.
        inputs: accumulate only into these tensors.

    Raises:
        GradError: where nothing requires a gradient, the graph was already used, or a saved value was overwritten.
        ShapeError: if `gradient` has another shape.

    If a hook raises, some leaves may have their gradient already and the graph is spent.

    >>> x = tl.tensor(3.0, requires_grad=True)
    >>> (x ** 2).backward()
    >>> x.grad
    tensor(6.)
    """
    wanted = None if inputs is None else _listed("backward", inputs)
    if wanted is not None and not wanted:
        raise GradError("backward: `inputs` is empty.")
    _check_inputs("backward", wanted or [])
    seed = _seed(self, gradient, "backward")
    retain = create_graph if retain_graph is None else retain_graph
    error: BaseException | None = None
    _under_way.depth += 1
    try:
        found = _run([self], [seed], retain, create_graph, wanted)
        for t, g in zip(wanted or (), found, strict=True):
            if g is not None:
                accumulate(t, g, create_graph=create_graph)
                _run_accumulated(t)
    except BaseException as raised:
        error = raised
        raise
    finally:
        _under_way.depth -= 1
        if _under_way.callbacks and not _under_way.depth:
            _ended(error)


def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Tensor | Sequence[Tensor | None] | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool | None = None,
    materialize_grads: bool = False,
) -> tuple[Tensor | None, ...]:
    """The gradients of `outputs` with respect to `inputs`, returned instead of accumulated.

    Args:
        grad_outputs: one gradient an output; None for outputs of one element.
        retain_graph, create_graph: as in `Tensor.backward`.
        allow_unused: give None for inputs that the outputs do not depend on, instead of raising; default: `materialize_grads`.
        materialize_grads: zeros instead of None.

    Raises:
        GradError: if an input does not require a gradient, or is not used and `allow_unused` is off.

    >>> x = tl.tensor(2.0, requires_grad=True)
    >>> (g,) = tl.autograd.grad(x ** 3, x, create_graph=True)
    >>> tl.autograd.grad(g, x)
    (tensor(12.),)
    """
    outs, ins = _listed("grad", outputs), _listed("grad", inputs)
    given: list[Tensor | None] = (
        [None] * len(outs)
        if grad_outputs is None
        else [grad_outputs]
        if isinstance(grad_outputs, Tensor)
        else list(grad_outputs)
    )
    if len(given) != len(outs):
        raise ShapeError(f"grad: got {len(given)} grad_outputs for {len(outs)} outputs.")
    _check_inputs("grad", ins)
    if allow_unused is None:
        allow_unused = materialize_grads
    seeds = [_seed(t, g, "grad") for t, g in zip(outs, given, strict=True)]
    found = _run(outs, seeds, create_graph if retain_graph is None else retain_graph, create_graph, ins)
    for i, (t, g) in enumerate(zip(ins, found, strict=True)):
        if g is None and not allow_unused:
            raise GradError(
                f"grad: input {i} of shape {t.shape} was not used to compute the outputs.",
                hint="pass allow_unused=True to get None",
            )
        if g is None and materialize_grads:
            from tensorlib.ops.creation import zeros_like

            found[i] = zeros_like(t)
    return tuple(found)


def _listed(name: str, tensors: Tensor | Sequence[Tensor]) -> list[Tensor]:
    if isinstance(tensors, Tensor):
        return [tensors]
    if not isinstance(tensors, Iterable):
        raise TypeError(f"{name}: got a {type(tensors).__name__}, expected a Tensor or a sequence of them.")
    return list(tensors)


def _check_inputs(name: str, inputs: list[Tensor]) -> None:
    for i, t in enumerate(inputs):
        if not isinstance(t, Tensor):
            raise TypeError(f"{name}: input {i} is a {type(t).__name__}, expected a Tensor.")
        if not t.requires_grad:
            raise GradError(f"{name}: input {i} of shape {t.shape} does not require a gradient.")


def _seed(t: Tensor, gradient: Tensor | None, name: str) -> Tensor:
    if not isinstance(t, Tensor):
        raise TypeError(f"{name}: got a {type(t).__name__}, expected a Tensor.")
    if not t.requires_grad:
        raise GradError(
            f"{name}: the tensor of shape {t.shape} does not require a gradient, nor was it made from one that does."
        )
    if gradient is None:
        handle = t._array
        if lib.tl_numel(handle) != 1:
            raise GradError(
                f"{name}: the tensor has shape {t.shape}, so its gradient must be given; only one element has a default, 1."
            )
        if lib.tl_storage_kind(handle) != FOREIGN:
            return wrap(
                checked(
                    lib.tl_new_filled(lib.tl_dtype_of(handle), lib.tl_ndim(handle), lib.tl_dims(handle), 1.0), name, ()
                )
            )
        from tensorlib.ops.creation import ones_like

        return ones_like(t)
    if not isinstance(gradient, Tensor):
        raise TypeError(f"{name}: the gradient is a {type(gradient).__name__}, expected a Tensor.")
    if gradient.shape != t.shape:
        raise ShapeError(f"{name}: the gradient has shape {gradient.shape}, expected the tensor's, {t.shape}.")
    if gradient.device != t.device:
        raise GradError(f"{name}: the gradient is on {gradient.device}, the tensor on {t.device}.")
    return gradient if gradient.dtype is t.dtype else gradient.to(t.dtype)


def _run(
    roots: list[Tensor], seeds: list[Tensor], retain: bool, create_graph: bool, inputs: list[Tensor] | None
) -> list[Tensor | None]:
    run = checked(lib.tl_run_new(retain, create_graph), "backward", ())
    retained, _under_way.retain = _under_way.retain, retain or create_graph
    grad_mode = lib.tl_set_grad_enabled(create_graph)
    autocast = lib.tl_set_autocast(0)  # gradients run in the dtypes of the operations they belong to
    try:
        for t in inputs or ():
            _done(lib.tl_run_capture(run, t._array))
        if inputs is not None or _hooked_leaves:
            _done(lib.tl_run_count(run, [t._array for t in roots], len(roots)))
        for t, g in zip(roots, seeds, strict=True):
            _serve(run, lib.tl_run_seed(run, t._array, g._array), create_graph)
        while (code := lib.tl_run_next(run)) != DONE:
            _serve(run, code, create_graph)
        return [_captured(run, k, t) for k, t in enumerate(inputs or ())]
    finally:
        lib.tl_set_grad_enabled(grad_mode)
        lib.tl_set_autocast(autocast)
        _under_way.retain = retained
        lib.tl_run_free(run)


def _captured(run: int, k: int, t: Tensor) -> Tensor | None:
    handle = lib.tl_run_captured(run, k)
    if not handle:
        return None
    token = lib.tl_hooks(t._array)  # of a leaf; an interior tensor's hooks ran with its node
    g = wrap_gradient(handle)
    return OBJECTS[token].run(0, g) if token else g


def _done(ok: bool) -> None:
    if not ok:
        raise_status("backward")


def _serve(run: int, code: int, create_graph: bool) -> None:
    if code in (DONE, SIGNALS):
        return
    if code == ERROR:
        node = lib.tl_run_node(run)
        raise_run_error(
            type(OBJECTS[lib.tl_node_token(node)]).__name__ if node and lib.tl_node_op(node) == FUNCTION else None
        )
    if code == ASK_NODE:
        _serve_node(run)
    elif code == ASK_ADD:
        both = wrap_gradient(lib.tl_run_grad(run, 0)) + wrap_gradient(lib.tl_run_grad(run, 1))
        lib.tl_run_answer(run, both._array)
    elif code == ASK_REDUCE:
        meta = lib.tl_run_meta(run)
        reduced = reduce_to(wrap(lib.tl_run_grad(run, 0)), *_meta(meta))  # named: its handle must outlive the call
        lib.tl_run_answer(run, reduced._array)
    else:
        _serve_leaf(run, create_graph)


def _meta(meta: int) -> tuple[tuple[int, ...], dtypes.DType]:
    return tuple(ffi.unpack(lib.tl_meta_dims(meta), lib.tl_meta_ndim(meta))), dtypes.ALL[lib.tl_meta_dtype(meta)]


def reduce_to(g: Tensor, shape: tuple[int, ...], dtype: dtypes.DType) -> Tensor:
    """A gradient of a broadcast shape, summed to its operand's, in its operand's dtype. Recorded."""
    have = g.shape
    lead = len(have) - len(shape)
    dims = [i for i, n in enumerate(have) if i < lead or (shape[i - lead] == 1 and n != 1)]
    if lead < 0 or any(shape[i - lead] != n for i, n in enumerate(have) if i not in dims):
        raise ShapeError(f"backward: a rule returned a gradient of shape {have} for an operand of shape {shape}.")
    if dims:
        g = g.sum(tuple(dims), keepdim=True).reshape(shape)
    return g if g.dtype is dtype else g.to(dtype)


# ---- nodes ----
def _serve_node(run: int) -> None:
    node = lib.tl_run_node(run)
    if lib.tl_run_hooks_pending(run):
        _run_node_hooks(run, node)
        return
    number = lib.tl_node_op(node)
    line = lib.tl_node_line(node)
    before, inherited.line = inherited.line, line
    try:
        if number == FUNCTION:
            grads = OBJECTS[lib.tl_node_token(node)].run_backward(
                [_gradient(run, j) for j in range(lib.tl_node_outputs(node))]
            )
        else:
            op = BY_NUMBER.get(number)
            if op is None or (op.vjp is None and op.name not in _NO_RULE):
                name = {n: s for s, n in NATIVE_NUMBERS.items()}.get(number, str(number))
                raise GradError(f"backward: `{name}` ({describe(line)}) has no gradient rule.")
            grads = _rule_gradients(run, node, op)
    finally:
        inherited.line = before
    for i, g in enumerate(grads):
        if g is not None:
            lib.tl_run_give(run, i, g._array)
    lib.tl_run_gave(run)


_NO_RULE = {"fill"}


def _run_node_hooks(run: int, node: int) -> None:
    hooks: Hooks = OBJECTS[lib.tl_node_hooks(node)]
    for j in sorted({*hooks.by_output, *hooks.retaining}):
        handle = lib.tl_run_grad(run, j)
        if handle:
            g = wrap_gradient(handle)
            made = hooks.run(j, g)
            if made is not g:
                lib.tl_run_set_grad(run, j, made._array)
    lib.tl_run_hooked(run)


def _gradient(run: int, j: int) -> Tensor | None:
    """As rules read it: dense."""
    handle = lib.tl_run_grad(run, j)
    g = wrap_gradient(handle) if handle else None
    return g.to_dense() if g is not None and g.is_sparse else g


def _rule_gradients(run: int, node: int, op: Op) -> list[Tensor | None]:
    n = lib.tl_node_inputs(node)
    token = lib.tl_node_token(node)
    attrs = OBJECTS[token].attrs if token else op.decode(node) if op.decode else {}
    values = _Values(run, node, op, attrs)
    if op.variadic:
        assert op.vjp is not None and op.vjp[0] is not None
        return list(op.vjp[0](**{name: values[name] for name in op.needs[0]}))
    if not lib.tl_is_grad_enabled() and (made := _lane(run, op, values)) is not None:
        return made
    if op.replays:
        return _replayed(run, op, values)
    grads: list[Tensor | None] = [None] * n
    for i, rule in enumerate(op.vjp or ()):
        if i < n and rule is not None and lib.tl_run_wants(run, i):
            grads[i] = rule(**{name: values[name] for name in op.needs[i]})
    return grads


def _lane(run: int, op: Op, values: _Values) -> list[Tensor | None] | None:
    """First-order gradients on a GPU, where a lane serves: tensorlib/gpu."""
    handles = (lib.tl_run_grad(run, j) for j in range(lib.tl_node_outputs(values.node)))
    g = wrap_gradient(next(handle for handle in handles if handle))
    if not g.is_cuda:
        return None
    if (there := backend(g.device)).away():
        with there.visit():
            return _lane(run, op, values)
    from tensorlib.gpu import GRADIENT_LANES

    serve = GRADIENT_LANES.get(op.name)
    if serve is None:
        return None
    wanted = tuple(bool(lib.tl_run_wants(run, i)) for i in range(lib.tl_node_inputs(values.node)))
    names = serve.__code__.co_varnames[1 : serve.__code__.co_argcount]
    made = serve(wanted, **{name: _lane_operand(values, name) for name in names})
    return None if made is None else list(made)


def _lane_operand(values: _Values, name: str) -> Any:
    if name == "kept":
        token = lib.tl_node_token(values.node)
        if not token:
            return None
        extra = OBJECTS[token]
        kept = extra.kept
        if not _under_way.retain:
            extra.kept = None
        return kept
    if name.startswith("g_"):
        return _gradient(values.run, values.op.outputs.index(name[2:]))
    return values[name]


def _replayed(run: int, op: Op, values: _Values) -> list[Tensor | None]:
    """The gradients of an entry without rules: its composite runs again, and they are taken of that. They are differentiable where asked for."""
    assert op.composite is not None
    wanted = [i for i in range(len(op.inputs)) if lib.tl_run_wants(run, i)]
    inputs = [values[name] for name in op.inputs]
    create_graph = lib.tl_set_grad_enabled(True)
    try:
        for i in wanted:  # a tensor of their own: gradients end there, also where one input was made from another
            x = inputs[i]
            inputs[i] = x.reshape(x.shape) if create_graph else x.detach().requires_grad_()
        made = op.composite(*inputs, **{name: values[name] for name in op.attrs})
        outs = made if isinstance(made, tuple) else (made,)
        reached = [(t, g) for j, t in enumerate(outs) if t.requires_grad and (g := _gradient(run, j)) is not None]
        found = grad(
            [t for t, _ in reached], [inputs[i] for i in wanted], [g for _, g in reached],
            create_graph=create_graph, materialize_grads=True,
        )  # fmt: skip
    finally:
        lib.tl_set_grad_enabled(create_graph)
    grads: list[Tensor | None] = [None] * len(op.inputs)
    for i, g in zip(wanted, found, strict=True):
        grads[i] = g
    return grads


class _Values(dict[str, Any]):
    """What a node's rules ask for by name, fetched once."""

    def __init__(self, run: int, node: int, op: Op, attrs: dict[str, Any]) -> None:
        super().__init__(attrs)
        self.run, self.node, self.op = run, node, op

    def __missing__(self, name: str) -> Any:
        value = self[name] = self._fetch(name)
        return value

    def _fetch(self, name: str) -> Any:
        op, node = self.op, self.node
        if name == "g":
            return _gradient(self.run, 0)
        if name == "values":  # a lane of many entries asks as it goes
            return self
        if name.startswith("g_") and name[2:] in op.outputs:
            return self._output_gradient(op.outputs.index(name[2:]))
        if name in op.outputs:
            return wrap(checked(lib.tl_node_saved(node, OUTPUT, op.outputs.index(name)), op.name, ()))
        if op.variadic and name.removesuffix("_shape") in op.inputs:
            n = lib.tl_node_inputs(node)
            return [self._shape(i) if name.endswith("_shape") else self._saved_input(i) for i in range(n)]
        if name in op.inputs:
            return self._saved_input(op.inputs.index(name))
        if name.endswith("_shape"):
            return self._shape(op.inputs.index(name[:-6]))
        if name.endswith("_dtype"):
            return _meta(lib.tl_node_meta(node, op.inputs.index(name[:-6])))[1]
        raise KeyError(name)

    def _shape(self, i: int) -> tuple[int, ...]:
        return _meta(lib.tl_node_meta(self.node, i))[0]

    def _saved_input(self, i: int) -> Tensor | None:
        if i >= lib.tl_node_inputs(self.node):
            return None
        handle = lib.tl_node_saved(self.node, INPUT, i)
        return wrap(handle) if handle else None  # an optional operand that was not given

    def _output_gradient(self, j: int) -> Tensor:
        g = _gradient(self.run, j)
        if g is not None:
            return g
        from tensorlib.ops.creation import zeros_like

        return zeros_like(wrap(checked(lib.tl_node_saved(self.node, OUTPUT, j), self.op.name, ())).detach())


# ---- leaves ----
def accumulate(leaf: Tensor, g: Tensor, *, create_graph: bool = False) -> None:
    """leaf.grad += g, as backward does."""
    if g.device.type != "cpu" and not create_graph:
        with _adding:  # C has its own lock for what lies in main memory
            _accumulate(leaf, g, create_graph)
    else:
        _accumulate(leaf, g, create_graph)


_adding = threading.Lock()


def _accumulate(leaf: Tensor, g: Tensor, create_graph: bool) -> None:
    held = leaf.grad
    if not create_graph and (g.is_sparse or (held is not None and held.is_sparse)):
        accumulate_rows(leaf, g)
        return
    if held is None and not create_graph and g.requires_grad:
        g = g.detach()
    if held is None:
        if create_graph:
            leaf.grad = g
        elif g.device.type != "cpu":
            leaf.grad = g if lib.tl_is_sole(g._array) else g.clone()
        else:
            _done(lib.tl_accumulate_grad_copy(leaf._array, g._array))
    elif create_graph:
        leaf.grad = held + g
    elif held.device.type == "cpu" and held.dtype.number in _IN_C:
        _done(
            lib.tl_accumulate_grad_copy(leaf._array, g._array)
        )  # under the engine's lock: another thread may be at the same leaf
    else:
        held.add_(g)


_IN_C = (dtypes.float32.number, dtypes.float64.number)


def _run_accumulated(leaf: Tensor) -> None:
    token = lib.tl_hooks(leaf._array)
    for hook in list(OBJECTS[token].accumulated.values()) if token else ():
        hook(leaf)


def _serve_leaf(run: int, create_graph: bool) -> None:
    leaf = wrap(lib.tl_run_leaf(run))
    handle = lib.tl_run_grad(run, 0)
    g = wrap_gradient(handle) if handle else None  # None: it is accumulated already
    token = lib.tl_hooks(leaf._array)
    hooks: Hooks | None = OBJECTS[token] if token else None
    if hooks and g is not None:
        g = hooks.run(0, g)
    lib.tl_run_answer(run, 0)
    if g is not None:
        accumulate(leaf, g, create_graph=create_graph)
    _run_accumulated(leaf)
