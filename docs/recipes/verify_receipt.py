"""Check a receipt of the bank without the bank: python verify_receipt.py RECEIPT.json PUBLIC_KEY

Needs Python 3.9 or later and the package `cryptography`, and nothing of the bank's own code. PUBLIC_KEY is the bank's, in 64
hexadecimal digits, and must come to you on another way than the receipt. Exit code: 0 proven, 1 not proven.
"""

import hashlib
import json
import sys
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

OUTCOMES = {
    "TransactionSubmitted": "was asked for; nothing is proven of what became of it",
    "TransactionCompleted": "was posted",
    "TransactionFailed": "was refused",
    "TransactionRolledBack": "was rolled back, in whole or in part",
}


class NotProven(Exception):
    pass


def must(holds, why):
    if not holds:
        raise NotProven(why)


def sha256(content):
    return hashlib.sha256(content).digest()


def root_of(leaf, index, size, path):
    """The root of the Merkle tree (RFC 6962) in which `leaf` is number `index` of `size`, by its audit path (RFC 9162, 2.1.3.2)."""
    must(type(index) is int and 0 <= index < size, "the index is outside of the block")
    last, found = size - 1, sha256(b"\x00" + leaf)
    for sibling in path:
        must(last > 0 and len(sibling) == 32, "the path is not one of this block")
        if index % 2 or index == last:
            found = sha256(b"\x01" + sibling + found)
            while index % 2 == 0 and index:
                index, last = index // 2, last // 2
        else:
            found = sha256(b"\x01" + found + sibling)
        index, last = index // 2, last // 2
    must(last == 0, "the path is too short")
    return found


def opened(part, commitment, what):
    """The content of a part of the event that the receipt shows; None where it is closed."""
    if part is None:
        return None
    salt, content = bytes.fromhex(part["salt"]), part["content"].encode()
    must(len(salt) == 32 and sha256(salt + content).hex() == commitment, f"the {what} is not what was sealed")
    return json.loads(content)


def check(receipt, public_key):
    """Yield what is proven of each event. Raises NotProven or InvalidSignature when something is not."""
    must(receipt["receipt"] == 1 and receipt["events"], "it is no receipt of version 1")
    for version, item in enumerate(receipt["events"], 1):
        # 1. The signature: the bank's key signed the block's header.
        header = item["block"]["header"].encode()
        must(bytes.fromhex(item["block"]["public_key"]) == public_key, "a block is signed with another key")
        Ed25519PublicKey.from_public_bytes(public_key).verify(bytes.fromhex(item["block"]["signature"]), header)
        block = json.loads(header)
        # 2. The tree: the event is one of those whose root the header holds.
        canonical, path = item["event"].encode(), [bytes.fromhex(sibling) for sibling in item["path"]]
        root = root_of(canonical, item["index"], block["events"], path)
        must(root.hex() == block["root"], f"event {version} is not in block {block['number']}")
        # 3. The event: it is this transaction's, and what is shown of it is what it commits to.
        event = json.loads(canonical)
        must(event["stream_id"] == receipt["transaction_id"], f"event {version} is of another transaction")
        must(event["version"] == version, f"event {version} is missing")
        data = opened(item["data"], event["data"], f"data of event {version}")
        opened(item["origin"], event["origin"], f"origin of event {version}")
        yield event["recorded_at"], event["type"], block["number"], block["sealed_at"], data


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        receipt = json.loads(Path(sys.argv[1]).read_bytes())
        proven = list(check(receipt, bytes.fromhex(sys.argv[2])))
    except (NotProven, InvalidSignature) as error:
        sys.exit(f"NOT PROVEN: {str(error) or 'a block is not signed with this key'}")
    except (OSError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        sys.exit(f"NOT PROVEN: not a receipt, or not a key: {type(error).__name__} {error}")
    for recorded_at, kind, number, sealed_at, data in proven:
        print(f"{recorded_at} {kind}, in block {number} sealed {sealed_at}: {'closed' if data is None else json.dumps(data)}")
    print(f"Proven: transaction {receipt['transaction_id']} {OUTCOMES.get(kind, kind)}. What came later is not in a receipt.")
