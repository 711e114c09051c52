"""Whether GPUs may round the operands of float32 products to TF32, which has float16's precision and float32's range: PyTorch's switches."""

from __future__ import annotations

__all__ = ["convolutions", "get_float32_matmul_precision", "matmul", "set_float32_matmul_precision"]

PRECISIONS = ("highest", "high", "medium")


class Precision:
    """``allow_tf32``: products of float32 matrices take TF32, some eight times as fast and right to three digits. Sums stay float32."""

    def __init__(self, *, allow_tf32: bool) -> None:
        self.allow_tf32 = allow_tf32


class Convolutions(Precision):
    """The same for convolutions. ``enabled``: cuDNN computes those on GPUs, where it and its frontend (nvidia-cudnn-frontend) are installed."""

    enabled = True


matmul = Precision(allow_tf32=False)  # as tl.backends.cuda.matmul
convolutions = Convolutions(allow_tf32=True)  # as tl.backends.cudnn, PyTorch's name


def set_float32_matmul_precision(precision: str) -> None:
    """What float32 matrix products on GPUs are computed in: "highest", float32, as at the start; "high" or "medium", TF32. CPUs: always float32.

    The same as ``tl.backends.cuda.matmul.allow_tf32``. Convolutions have a switch of their own, ``tl.backends.cudnn.allow_tf32``, on at the start.

    Raises:
        ValueError: for any other word.

    >>> tl.set_float32_matmul_precision("high")
    >>> tl.backends.cuda.matmul.allow_tf32
    True
    >>> tl.set_float32_matmul_precision("highest")
    """
    if precision not in PRECISIONS:
        raise ValueError(f"set_float32_matmul_precision: expected one of {', '.join(PRECISIONS)}, got {precision!r}.")
    matmul.allow_tf32 = precision != "highest"


def get_float32_matmul_precision() -> str:
    """The word for it: "highest" or, where TF32 is allowed, "high".

    >>> tl.get_float32_matmul_precision()
    'highest'
    """
    return "high" if matmul.allow_tf32 else "highest"
