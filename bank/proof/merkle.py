"""The Merkle tree of RFC 6962, section 2.1, over SHA-256: one hash for many, and short proofs that one is among them.

A leaf and a node are hashed with different first bytes, so that none can be taken for the other.
"""

from collections.abc import Sequence
from hashlib import sha256


def leaf_hash(content: bytes) -> bytes:
    """The hash of a leaf."""
    return sha256(b"\x00" + content).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of a node over its two sides."""
    return sha256(b"\x01" + left + right).digest()


Tree = Sequence[Sequence[bytes]]
"""The hashes of a tree, level by level: its leaves first, its root last."""


def grow(leaves: Sequence[bytes]) -> Tree:
    """The tree over the hashes of its leaves, in their order, of which there is one at least."""
    levels = [leaves]
    while len(levels[-1]) > 1:
        below = levels[-1]
        # Pairing from the left and taking a last single one up as it is gives the tree that the RFC splits at powers of two.
        above = [node_hash(below[at], below[at + 1]) for at in range(0, len(below) - 1, 2)]
        levels.append([*above, below[-1]] if len(below) % 2 else above)
    return levels


def root(leaves: Sequence[bytes]) -> bytes:
    """The tree's hash over the hashes of its leaves; of none, the hash of nothing."""
    return grow(leaves)[-1][0] if leaves else sha256(b"").digest()


def path(tree: Tree, index: int) -> list[bytes]:
    """The audit path (RFC 6962, 2.1.1) of the leaf number `index` (from 0): what `root_of` needs besides the leaf."""
    siblings = []
    for level in tree[:-1]:
        if (sibling := index ^ 1) < len(level):
            siblings.append(level[sibling])
        index //= 2
    return siblings


def root_of(leaf: bytes, index: int, size: int, siblings: Sequence[bytes]) -> bytes | None:
    """The root of a tree of `size` leaves in which the hash `leaf` is number `index`, by its path; None when there is no such tree.

    Raises nothing on wrong input: whoever checks compares the root with a signed one.
    """
    if not 0 <= index < size:
        return None
    # RFC 9162, 2.1.3.2, which says how to check what RFC 6962 defines. A node without a sibling goes up as it is.
    last, found = size - 1, leaf
    for sibling in siblings:
        if last == 0:
            return None
        if index % 2 or index == last:
            found = node_hash(sibling, found)
            while index % 2 == 0 and index:
                index, last = index // 2, last // 2
        else:
            found = node_hash(found, sibling)
        index, last = index // 2, last // 2
    return found if last == 0 else None
