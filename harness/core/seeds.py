"""Named seeds: every random choice has a seed that is a hash of what it is for."""

import hashlib


def seed_for(*names: object) -> int:
    """Hash names, as in ``seed_for(0, "food101", "order")``, to a 63-bit seed."""
    # A separator that is in no name: ("a", "bc") and ("ab", "c") differ.
    text = "\x1f".join(str(name) for name in names)
    # 63 bits fit a signed 64-bit integer.
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
