"""A bar that follows a pass over data, in a terminal and in a notebook."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

from tensorlib.data.dataloader import DataLoader
from tensorlib.tensor import Tensor

__all__ = ["progress"]

KEPT = 0.98  # what stays of a mean at each report: it follows about the last 50


def progress(batches: Iterable[Any], desc: str | None = None, **options: Any) -> Any:
    """The batches, under a bar of tqdm's that shows how far the pass is, examples per second, and what is reported.

    ``report(loss=loss)`` adds to a running mean of about the last 50 values. Tensors are read only as the bar is drawn, some times per second:
    a loop on a device need not wait for each of its losses. Of a `DataLoader` that goes on in mid-pass, the bar does so too.

    Args:
        batches: a DataLoader, or anything to go over.
        desc: what stands before the bar.
        options: of tqdm; ``disable=None`` shows nothing where the output is no terminal.

    >>> loader = tl.data.DataLoader(tl.data.TensorDataset(tl.ones(5, 2)), batch_size=2)
    >>> bar = tl.data.progress(loader, "epoch 1", disable=True)
    >>> for (x,) in bar:
    ...     bar.report(loss=x.mean())
    >>> bar.words()
    'loss=1.0000'
    """
    at = batches.state_dict()["batches"] if isinstance(batches, DataLoader) else 0
    try:
        total = len(batches)  # type: ignore[arg-type]
    except TypeError:
        total = None
    return _bar()(batches, desc, **{"unit": "batch", "initial": at, "total": total, **options})


@cache
def _bar() -> Any:
    """The class of bars, made when the first is wanted: tqdm's notebook side is slow to import."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a notebook without ipywidgets gets the terminal's bar
        from tqdm.auto import tqdm

    class Progress(tqdm):  # type: ignore[misc]
        def __init__(self, batches: Iterable[Any], *args: Any, **options: Any) -> None:
            self._batches, self._examples = batches, 0  # kept from tqdm, which may begin a pass when it is made
            self._means: dict[str, tuple[Any, float]] = {}  # the weighted sum of what was reported, and its weight
            super().__init__(None, *args, **options)

        def __iter__(self) -> Iterator[Any]:
            with self:
                for batch in self._batches:
                    self._examples += _examples(batch)
                    yield batch
                    self.update()

        def report(self, **values: Any) -> None:
            """Numbers, or tensors of one element, of this step."""
            for name, value in values.items():
                total, weight = self._means.get(name, (0.0, 0.0))
                own = value.detach() if isinstance(value, Tensor) else value
                self._means[name] = KEPT * total + own, KEPT * weight + 1

        def words(self) -> str:
            """What is shown behind the bar."""
            shown = [f"{name}={float(total) / weight:.4f}" for name, (total, weight) in self._means.items()]
            seconds = super().format_dict["elapsed"]
            if self._examples and seconds:
                shown.append(f"{self.format_sizeof(self._examples / seconds)} examples/s")
            return ", ".join(shown)

        @property
        def format_dict(self) -> dict[str, Any]:
            return {**super().format_dict, "postfix": self.words()}

    return Progress


def _examples(batch: Any) -> int:
    """How many examples are in a batch; 0 where that does not show."""
    while isinstance(batch, (list, tuple, Mapping)) and batch and not hasattr(batch, "batch_sizes"):
        batch = next(iter(batch.values() if isinstance(batch, Mapping) else batch))
    if hasattr(batch, "batch_sizes"):  # a packed sequence
        return int(batch.batch_sizes[0])
    return batch.shape[0] if isinstance(batch, Tensor) and batch.ndim else 0
