"""Memory that the kernel or a device writes behind the process's back, and locked memory."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from clonal.image.audit.hazard import Hazard, listed
from clonal.image.audit.heap import namespace
from clonal.image.audit.registry import Facts, check
from clonal.kernel import procfs

DEVICES = ("/dev/nvidia", "/dev/infiniband", "/dev/kfd")


@check()
def cuda(facts: Facts) -> Iterator[Hazard]:
    """A CUDA (or ROCm, RDMA) context: the driver refuses it in a forked process."""
    evidence = [f"fd {one.fd} is {one.target}" for one in facts.descriptors if one.target.startswith(DEVICES)]
    mapped = sorted({one.path for one in facts.space.maps if one.path.startswith(DEVICES)})
    evidence += [f"{path} is mapped" for path in mapped]
    if _torch_initialised():
        evidence.append("torch.cuda.is_initialized()")
    if evidence:
        yield Hazard(
            "cuda",
            "danger",
            listed(evidence),
            "keep the warm-up on the CPU and move to the device in the clone: a device context does not "
            "survive a fork, and freeze() refuses while a device maps memory",
        )


def _torch_initialised() -> bool:
    asked = namespace(sys.modules.get("torch.cuda")).get("is_initialized")
    return bool(asked()) if callable(asked) else False


@check()
def asynchronous_io(facts: Facts) -> Iterator[Hazard]:
    """io_uring and Linux aio: the kernel completes a read into the parent's buffer, not the clone's."""
    rings = [f"fd {one.fd} is {one.target}" for one in facts.descriptors if "[io_uring]" in one.target]
    rings += [f"{one.path} is mapped" for one in facts.space.maps if "[io_uring]" in one.path]
    if rings:
        yield _kernel_io("io-uring", rings)
    contexts = [f"/[aio] is mapped at {one.start:#x}" for one in facts.space.maps if "[aio]" in one.path]
    if contexts:
        yield _kernel_io("aio", contexts)


def _kernel_io(name: str, evidence: list[str]) -> Hazard:
    return Hazard(
        name,
        "danger",
        listed(evidence),
        "close the ring or context before the freeze and open one in the clone: what it completes is "
        "written to memory the clone does not see, and freeze() refuses meanwhile",
    )


@check()
def held_memory(_facts: Facts) -> Iterator[Hazard]:
    """Pinned pages (a device or RDMA writes them) and locked pages (clones do not inherit the lock)."""
    status = procfs.status()
    pinned, locked = status.size("VmPin") >> 10, status.size("VmLck") >> 10
    if pinned:
        yield Hazard(
            "pinned-memory",
            "danger",
            f"VmPin is {pinned} kB",
            "release what pins it (RDMA, VFIO, io_uring buffers) before the freeze: pinned pages are "
            "copied at every fork, and freeze() refuses them",
        )
    if locked:
        yield Hazard(
            "locked-memory",
            "warning",
            f"VmLck is {locked} kB",
            "lock in the clone what must not be swapped (secrets, buffers): locks are not inherited, and "
            "locked memory stays out of the image",
        )
