"""Sums over the GPUs of a group's ranks, each with one of its own: by NCCL inside a node, by MPI between nodes.

    1. inside      each GPU gets its share of the elements, summed over the node     reduceScatter
    2. between     ranks with the same place on their nodes sum their share          MPI, through pinned memory or from GPU to GPU
    3. inside      everyone gets everyone's share                                    allGather

On one node this is one call, allReduce, and nothing leaves the GPUs; with one rank a node there is only 2, and then only where MPI takes GPU
memory itself. In all other cases (ranks that share a GPU, unequal nodes, no NCCL) there is no `Link`, and gradients travel as staging.py says.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

import tensorlib as tl

from . import gpu_memory, reductions
from .calls import under_way
from .moves import Port
from .progress import Steps
from .staging import Staged
from .world import Group

__all__ = ["Exchange", "Link", "link"]

# As nccl.h numbers them; CuPy has not always had a name for the last one.
_TYPES = {"float16": 6, "float32": 7, "float64": 8, "bfloat16": 9}
_SUM = 0


class Link:
    """What the ranks of a group have between their GPUs. Calls go to a stream, in the same order on all ranks."""

    def __init__(self, group: Group, device: tl.Device, communicator: Any, direct: bool) -> None:
        node, across = group.node, group.across
        assert node is not None and across is not None
        self.ranks_here, self.place = node.size, node.rank
        self.across = Group(tuple(range(across.size)), across.rank, background=across) if across.size > 1 else None
        self.direct = direct
        """Whether MPI takes GPU memory itself."""
        self._communicator = communicator
        self._device = device

    def sum_in_place(self, flat: tl.Tensor, stream: tl.cuda.Stream) -> None:
        address, kind = flat.data_ptr(), _TYPES[flat.dtype.name]
        self._communicator.allReduce(address, address, flat.numel(), kind, _SUM, stream.cuda_stream)

    def sum_shares(self, flat: tl.Tensor, share: tl.Tensor, stream: tl.cuda.Stream) -> None:
        """This rank's share becomes the sum of the node's."""
        if self._communicator is not None:
            places, kind = (flat.data_ptr(), share.data_ptr()), _TYPES[flat.dtype.name]
            self._communicator.reduceScatter(*places, share.numel(), kind, _SUM, stream.cuda_stream)

    def gather_shares(self, share: tl.Tensor, flat: tl.Tensor, stream: tl.cuda.Stream) -> None:
        """All ranks of the node get each other's shares."""
        if self._communicator is not None:
            places, kind = (share.data_ptr(), flat.data_ptr()), _TYPES[flat.dtype.name]
            self._communicator.allGather(*places, share.numel(), kind, stream.cuda_stream)

    def settle(self) -> None:
        """Wait until this rank is done."""
        tl.cuda.synchronize(self._device)

    def close(self) -> None:
        """Once all ranks are. Not by NCCL's destroy, which would wait for them."""
        if self._communicator is not None:
            self._communicator.abort()
            self._communicator = None


def link(group: Group, device: tl.Device) -> Link | None:
    """The group's link between these devices, where all of its ranks can have one. Collective, whatever they are; the same one every time."""
    if group.comm is None:
        return None
    assert group.node is not None
    names: list[str | None] = group.comm.allgather(_name(device))
    key = tuple(str(name) for name in names)
    if key not in group.links:
        here = group.node.allgather(names[group.rank])  # its thread has nothing of this group to do yet
        sizes = group.comm.allgather(len(here) if None not in here and len(set(here)) == len(here) else 0)
        group.links[key] = _linked(group, device) if sizes[0] and len(set(sizes)) == 1 else None
    return group.links[key]


def _name(device: tl.Device) -> str | None:
    """Which GPU of the node it is, whatever its number in this process; None: not one to link."""
    if device.type != "cuda" or os.environ.get("TENSORLIB_NCCL", "1") == "0":
        return None
    found = tl.cuda.get_device_properties(device)
    return f"{found.pci_domain_id}:{found.pci_bus_id}:{found.pci_device_id}"


def _linked(group: Group, device: tl.Device) -> Link | None:
    assert group.comm is not None and group.node is not None and group.across is not None
    direct = group.across.size > 1 and gpu_memory.taken_by_mpi(group)
    if group.node.size == 1:
        return Link(group, device, None, direct) if direct else None
    with under_way("NCCL: connect", group):
        communicator, problem = _communicator(group, device)
    problems: list[str | None] = group.comm.allgather(problem)
    if not any(problems):
        return Link(group, device, communicator, direct)
    if communicator is not None:
        communicator.abort()
    if group.rank == 0:
        rank = next(r for r, found in enumerate(problems) if found)
        warnings.warn(
            f"distributed: NCCL does not work on rank {group.ranks[rank]} ({problems[rank]}): gradients travel through main memory, which is "
            "slower. TENSORLIB_NCCL=0 says so from the start.",
            stacklevel=5,
        )
    return None


def _communicator(group: Group, device: tl.Device) -> tuple[Any, str | None]:
    """NCCL's, of this node's ranks, or what is wrong."""
    node: Any = group.node
    nccl: Any = None
    ticket = problem = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # CuPy warns where there is none; `_linked` says what that means here
            import cupy.cuda.nccl

        nccl = cupy.cuda.nccl
        if not nccl.available:
            problem = "CuPy finds no NCCL; pip install nvidia-nccl-cu13, or cu12"
        elif node.rank == 0:
            ticket = nccl.get_unique_id()
    except (ImportError, RuntimeError) as error:
        problem = str(error)
    ticket = node.bcast(ticket)
    if any(node.allgather(problem)):  # then nobody begins what needs everybody
        return None, problem
    try:
        with tl.cuda.device(device):
            return nccl.NcclCommunicator(node.size, ticket, node.rank), None
    except RuntimeError as error:
        return None, str(error)


class Exchange:
    """A contiguous tensor on a GPU that becomes its sum over the ranks, on a stream beside the program's."""

    def __init__(self, between: Link, whole: tl.Tensor) -> None:
        self._link, self._whole = between, whole
        n = whole.numel() // between.ranks_here
        self._share = whole[between.place * n : (between.place + 1) * n]
        self._stage = Staged(self._share, direct=between.across is None or self._direct())
        self.follow, self.ordered = self._stage.follow, self._stage.ordered

    def _direct(self) -> bool:
        return self._link.direct and reductions.is_known_to_mpi(self._whole.dtype)

    def all_reduce(self, scale: float) -> Steps:
        """`scale` times the sum: scaled first, so that the sum of 16-bit floats stays within their range."""
        self._stage.begin()
        return self._summed(scale)

    def _summed(self, scale: float) -> Steps:
        between, stage = self._link, self._stage
        with stage.beside() as stream:
            self._whole.mul_(scale)
            if between.across is None:
                between.sum_in_place(self._whole, stream)
            else:
                between.sum_shares(self._whole, self._share, stream)
        if between.across is not None:
            stage.fetch()
            yield from stage.arrived()
            yield from reductions.all_reduce(Port(between.across, background=True), stage.here, "sum")
            stage.up()
            with stage.beside() as stream:
                between.gather_shares(self._share, self._whole, stream)
        stage.landed()
