"""What a script does on one rank only, and random streams of each rank."""

from __future__ import annotations

import tensorlib as tl
import tensorlib.distributed as dist


def test_rank_zero_only() -> None:
    @dist.rank_zero_only
    def twice(x: int, *, plus: int = 0) -> int:
        """Twice."""
        return 2 * x + plus

    assert twice(3, plus=1) == (7 if dist.rank() == 0 else None)
    assert (twice.__name__, twice.__doc__) == ("twice", "Twice.")


def test_each_rank_draws_its_own() -> None:
    dist.manual_seed(5)
    mine = tl.rand(4)
    dist.manual_seed(5)
    assert tl.rand(4).tolist() == mine.tolist()
    dist.manual_seed(6)
    assert tl.rand(4).tolist() != mine.tolist()
    # any rank's stream can be named by hand, so the others' are known here without asking them
    streams = []
    for rank in range(dist.size()):
        with tl.fork_stream(5, rank):
            streams.append(tl.initial_seed())
    dist.manual_seed(5)
    assert tl.initial_seed() == streams[dist.rank()]
    assert len(set(streams)) == dist.size()
