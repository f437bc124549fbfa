"""What the API shows of the sealed log."""

from marshmallow import Schema, fields


class BlockAnswer(Schema):
    """A block of the sealed log: a run of events under one signature."""

    header = fields.String(
        metadata={
            "description": "JSON, to the byte as it is signed: the block's number, the position behind which it begins and where it ends, "
            "how many events it holds, the root of their Merkle tree (RFC 6962), the hash of the block before, and when it was sealed.",
            "example": '{"number":17,"after":4000,"last":4711,"events":711,"root":"5dc9…","previous":"9f86…","secret":"2c26…",'
            '"sealed_at":"2026-01-31T12:00:00.000000Z"}',
        }
    )
    signature = fields.String(
        metadata={"description": "Ed25519 over the header's bytes.", "pattern": "^[0-9a-f]{128}$", "example": "c0ffee" * 21 + "00"}
    )
    public_key = fields.String(metadata={"description": "What it is checked with.", "pattern": "^[0-9a-f]{64}$", "example": "d75a" * 16})


class PartAnswer(Schema):
    """A part of an event that is shown."""

    salt = fields.String(metadata={"description": "32 bytes in hexadecimal digits.", "example": "5a17" * 16})
    content = fields.String(
        metadata={
            "description": "JSON. SHA-256 of the salt and these bytes is what the event holds in its place.",
            "example": '{"failure_code":"insufficient_funds"}',
        }
    )


class SealedEventAnswer(Schema):
    """An event, and where it is in which block."""

    event = fields.String(
        metadata={
            "description": "The event's canonical JSON, to the byte as the leaf of the tree is made of it; `data` and `origin` are hashes.",
            "example": '{"position":4710,"stream_id":"019b2f6e-8a00-7000-8000-000000000001","version":1,"type":"TransactionFailed",'
            '"schema":1,"recorded_at":"2026-01-31T12:00:00.000000Z","data":"2c26…","origin":"fcde…"}',
        }
    )
    data = fields.Nested(PartAnswer, allow_none=True, metadata={"description": "What the event says; null where it is closed to you."})
    origin = fields.Nested(
        PartAnswer, allow_none=True, metadata={"description": "Who asked, by which request and trace; for auditors and admins."}
    )
    index = fields.Integer(metadata={"description": "Which leaf of the block's tree it is, from 0.", "example": 709})
    path = fields.List(
        fields.String(metadata={"example": "9f86" * 16}),
        metadata={"description": "The audit path (RFC 6962, 2.1.1), from the leaf's sibling upward."},
    )
    block = fields.Nested(BlockAnswer)


class ReceiptAnswer(Schema):
    """A transaction's events with the proof that they are in the sealed log."""

    receipt = fields.Integer(metadata={"description": "The version of this shape.", "example": 1})
    transaction_id = fields.UUID()
    events = fields.List(fields.Nested(SealedEventAnswer))
