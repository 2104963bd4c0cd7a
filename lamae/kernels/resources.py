"""What the Triton kernels take on a GPU, found without one: compiled ahead of time, read with cuobjdump.

``python -m lamae.kernels.resources`` prints the table of docs/kernels.md and fails where the limits are exceeded.
Not under ``TRITON_INTERPRET=1``, which replaces the compiler.
"""

import logging
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from lamae.kernels.tiles import NUM_WARPS, choose_tile
from lamae.kernels.triton_kernels import attention_backward, attention_forward

log = logging.getLogger(__name__)

MAX_REGISTERS_BF16 = 128
"""Above this, fewer than four programs of four warps fit a multiprocessor at once and memory is no longer hidden."""

KERNELS = {"forward": attention_forward, "backward": attention_backward}
ARCHITECTURES = (80, 90)
_ELEMENT_BYTES = {"bf16": 2, "fp32": 4}
_POINTERS = {"Q", "K", "V", "OUT", "GRAD", "DQ", "DK", "DV"}


@dataclass(frozen=True)
class Build:
    """One compiled kernel."""

    kernel: str
    """forward or backward."""
    architecture: int
    """CUDA compute capability times ten."""
    dtype: str
    """bf16 or fp32."""
    head_dim: int
    items: int
    """(group, head) pairs per program."""
    registers: int
    spilled_bytes: int
    """Stack and local memory per thread."""
    shared_bytes: int

    def problem(self) -> str | None:
        """What is wrong with it, if anything."""
        if self.spilled_bytes:
            return f"{self} spills {self.spilled_bytes} bytes per thread"
        if self.dtype == "bf16" and self.registers > MAX_REGISTERS_BF16:
            return f"{self} takes {self.registers} registers, more than {MAX_REGISTERS_BF16}"
        return None

    def __str__(self) -> str:
        return f"{self.kernel} sm_{self.architecture} {self.dtype} D={self.head_dim}"


def build(kernel: str, *, architecture: int, dtype: str, head_dim: int, num_leads: int = 12, heads: int = 6) -> Build:
    """Compiles one kernel as the launcher would for a masked batch of aligned tensors. Takes a second or two."""
    function = KERNELS[kernel]
    tile = choose_tile(head_dim=head_dim, element_bytes=_ELEMENT_BYTES[dtype])
    constants = tile.constants(num_leads=num_leads, heads=heads, head_dim=head_dim, has_mask=True, upcast=False)
    signature = {name: _type_of(name, dtype, constants) for name in function.arg_names}
    # The launcher says which pointers and strides are multiples of 16, which decides how wide the compiler loads.
    aligned = {
        (index,): [["tt.divisibility", 16]]
        for index, name in enumerate(function.arg_names)
        if name in _POINTERS or (signature[name] == "i32" and name.startswith(("in_", "out_", "grad_", "d_")))
    }
    source = ASTSource(
        function,
        signature,
        constexprs={(function.arg_names.index(name),): value for name, value in constants.items()},
        attrs=aligned,
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options={"num_warps": NUM_WARPS})
    registers, stack, shared, local = _resource_usage(compiled.asm["cubin"])
    return Build(
        kernel=kernel,
        architecture=architecture,
        dtype=dtype,
        head_dim=head_dim,
        items=tile.items,
        registers=registers,
        spilled_bytes=stack + local,
        shared_bytes=max(shared, compiled.metadata.shared),
    )


def build_all() -> Iterator[Build]:
    """Every kernel that training chooses by default."""
    for architecture in ARCHITECTURES:
        for kernel in KERNELS:
            for dtype, head_dim in (("bf16", 32), ("bf16", 64), ("fp32", 64)):
                yield build(kernel, architecture=architecture, dtype=dtype, head_dim=head_dim)


def _type_of(name: str, dtype: str, constants: dict[str, Any]) -> str:
    if name in constants:
        return "constexpr"
    if name in _POINTERS:
        return f"*{dtype}"
    if name == "MASK":
        return "*u8"
    return "fp32" if name.startswith("scale") else "i32"


def _resource_usage(cubin: bytes) -> tuple[int, ...]:
    """(registers, stack, shared, local) of the only function of a binary."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        run = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True)
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", run.stdout)
    if found is None:
        raise RuntimeError(f"cuobjdump said nothing of registers: {run.stdout!r}")
    return tuple(int(number) for number in found.groups())


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    problems = []
    log.info("| kernel | GPU | precision | D | items | registers | spilled bytes | shared bytes |")
    log.info("|---|---|---|---|---|---|---|---|")
    for made in build_all():
        log.info(
            f"| {made.kernel} | sm_{made.architecture} | {made.dtype} | {made.head_dim} | {made.items} "
            f"| {made.registers} | {made.spilled_bytes} | {made.shared_bytes} |"
        )
        if (problem := made.problem()) is not None:
            problems.append(problem)
    for problem in problems:
        log.error(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
