"""The tree is that of RFC 6962, and a path proves its leaf and no other."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bank.proof import merkle

# The leaves and roots that Certificate Transparency's own implementations are tested with.
LEAVES = [b"", b"\x00", b"\x10", b" !", b"01", b"@ABC", b"PQRSTUVW", b"`abcdefghijklmno"]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def hashes(leaves: list[bytes]) -> list[bytes]:
    return [merkle.leaf_hash(leaf) for leaf in leaves]


@pytest.mark.parametrize("size", range(1, 9))
def test_the_root_is_that_of_the_known_trees(size: int) -> None:
    assert merkle.root(hashes(LEAVES[:size])).hex() == ROOTS[size - 1]


def test_a_tree_of_nothing_has_the_hash_of_nothing() -> None:
    assert merkle.root([]).hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def by_the_rfc(leaves: list[bytes]) -> bytes:
    """The definition in section 2.1, word by word."""
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return merkle.node_hash(by_the_rfc(leaves[:split]), by_the_rfc(leaves[split:]))


@given(st.lists(st.binary(max_size=8), min_size=1, max_size=70))
def test_the_root_is_what_the_definition_says(leaves: list[bytes]) -> None:
    assert merkle.root(hashes(leaves)) == by_the_rfc(hashes(leaves))


@given(st.integers(1, 70), st.data())
def test_a_path_proves_its_leaf_at_its_place_and_nothing_else(size: int, data: st.DataObject) -> None:
    tree = hashes([b"%d" % number for number in range(size)])
    index = data.draw(st.integers(0, size - 1))
    path, root = merkle.path(merkle.grow(tree), index), merkle.root(tree)
    assert merkle.root_of(tree[index], index, size, path) == root
    other = data.draw(st.integers(-2, size + 2).filter(lambda at: at != index))
    assert merkle.root_of(tree[index], other, size, path) != root
    assert merkle.root_of(merkle.leaf_hash(b"other"), index, size, path) != root
    assert merkle.root_of(tree[index], index, size, [*path, tree[0]]) != root
    if path:
        assert merkle.root_of(tree[index], index, size, path[:-1]) != root
        at = data.draw(st.integers(0, len(path) - 1))
        assert merkle.root_of(tree[index], index, size, [*path[:at], merkle.leaf_hash(b"x"), *path[at + 1 :]]) != root
