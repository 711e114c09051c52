"""A module as a function of its parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tensorlib import Tensor
from tensorlib.nn.module import Module

__all__ = ["functional_call"]

Place = tuple[Module, str, str]  # module, registry, name


def functional_call(
    module: Module,
    parameter_and_buffer_dicts: Mapping[str, Tensor] | tuple[Mapping[str, Tensor], ...] | list[Mapping[str, Tensor]],
    args: Any = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    tie_weights: bool = True,
    strict: bool = False,
) -> Any:
    """Call the module with these tensors in place of its parameters and buffers, which stay as they are. Gradients flow to the tensors.

    Args:
        parameter_and_buffer_dicts: tensors by dotted name, in one or several dicts; what is not named is the module's own. A buffer that forward
            replaces is replaced in its dict.
        args: a tuple of arguments, or a single one.
        tie_weights: a tensor given for one name of a shared parameter holds for its other names.
        strict: every parameter and buffer must be given.

    >>> layer = tl.nn.Linear(1, 1)
    >>> w = tl.tensor([[3.0]], requires_grad=True)
    >>> out = tl.nn.utils.stateless.functional_call(layer, {"weight": w, "bias": tl.zeros(1)}, tl.ones(2, 1))
    >>> out.sum().backward()
    >>> out.tolist(), w.grad.tolist(), layer.weight.grad
    ([[3.0], [3.0]], [[2.0]], None)
    """
    dicts = (
        list(parameter_and_buffer_dicts)
        if isinstance(parameter_and_buffer_dicts, (tuple, list))
        else [parameter_and_buffer_dicts]
    )
    given = {name: d for d in dicts for name in d}
    if len(given) != sum(len(d) for d in dicts):
        raise ValueError("functional_call: a name stands in several of the dicts.")
    positional = () if args is None else args if isinstance(args, tuple) else (args,)
    with _replaced(module, given, tie_weights, strict):
        return module(*positional, **(kwargs or {}))


@contextmanager
def _replaced(module: Module, given: dict[str, Any], tie_weights: bool, strict: bool) -> Iterator[None]:
    """`given`: the dict in which each name stands."""
    places = _places(module)
    unexpected = [name for name in given if name not in places]
    missing = [name for name in places if name not in given]
    if unexpected or (strict and missing):
        said = (f", missing {missing}" if strict and missing else "") + (
            f", unexpected {unexpected}" if unexpected else ""
        )
        raise RuntimeError(f"functional_call: the names do not fit {type(module).__name__}{said}.")
    values = {name: d[name] for name, d in given.items()}
    if tie_weights:
        values = _tied(places, values)
    before = {name: _get(places[name]) for name in values}
    try:
        for name, value in values.items():
            _set(places[name], value)
        yield
        for name, d in given.items():
            now = _get(places[name])
            if now is not values[name] and isinstance(d, dict):
                d[name] = now
    finally:
        for name, value in before.items():
            _set(places[name], value)


def _places(module: Module) -> dict[str, Place]:
    """Every name of every parameter and buffer."""
    return {
        f"{path}.{name}" if path else name: (m, registry, name)
        for path, m in module.named_modules(remove_duplicate=False)
        for registry in ("_parameters", "_buffers")
        for name, value in getattr(m, registry).items()
        if value is not None
    }


def _tied(places: dict[str, Place], values: dict[str, Any]) -> dict[str, Any]:
    """The values, also under the other names of the tensors that they replace."""
    names: dict[int, list[str]] = {}
    for name, place in places.items():
        names.setdefault(id(_get(place)), []).append(name)
    made = {}
    for same in names.values():
        chosen = [values[name] for name in same if name in values]
        if any(value is not chosen[0] for value in chosen):
            raise ValueError(
                f"functional_call: {same} are one tensor, but got different values; `tie_weights=False` allows them."
            )
        made.update({name: chosen[0] for name in same if chosen})
    return made


def _get(place: Place) -> Any:
    module, _, name = place
    return module.__dict__[name]


def _set(place: Place, value: Any) -> None:
    module, registry, name = place
    module.__dict__[registry][name] = module.__dict__[name] = value
