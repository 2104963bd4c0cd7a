"""Launch shapes of the Triton kernels: fixed, because autotuning needs a driver and would differ between ranks."""

from dataclasses import dataclass

MAX_LEADS = 16
MAX_HEAD_DIM = 128
NUM_WARPS = 4
_LEAST_DOT = 16  # tl.dot takes no operand below 16 rows or columns


@dataclass(frozen=True)
class Tile:
    """What one program works on."""

    items: int
    """(group, head) pairs."""
    rows: int
    """Leads, padded."""
    columns: int
    """Head width, padded."""

    def constants(
        self, *, num_leads: int, heads: int, head_dim: int, has_mask: bool, upcast: bool
    ) -> dict[str, int | bool]:
        """What the kernels are compiled for, by the names of their arguments."""
        return {
            "H": heads,
            "L": num_leads,
            "LP": self.rows,
            "D": head_dim,
            "DP": self.columns,
            "ITEMS": self.items,
            "HAS_MASK": has_mask,
            "UPCAST": upcast,
        }


def choose_tile(*, head_dim: int, element_bytes: int) -> Tile:
    """Four items fill four warps; fewer where rows of more than 128 bytes would make them spill registers."""
    columns = max(_LEAST_DOT, 1 << (head_dim - 1).bit_length())
    items = max(1, min(4, 512 // (columns * element_bytes)))
    return Tile(items=items, rows=MAX_LEADS, columns=columns)
