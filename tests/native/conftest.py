"""What tests of kernels share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tensorlib.native import ffi, lib

ISAS = ffi.string(lib.tl_isa_available()).decode().split(",")


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    chosen = lib.tl_isa_name()
    assert lib.tl_isa_select(request.param.encode()) == 0
    yield request.param
    lib.tl_isa_select(chosen)
