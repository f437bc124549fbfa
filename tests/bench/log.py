"""A log of any length, without the bank that would have written it."""

from collections.abc import Mapping

from tests.processes import query


def fill_log(environ: Mapping[str, str], accounts: int, transactions: int) -> None:
    """The events of deposits, each submitted and completed, spread evenly over accounts; and of the accounts."""
    owner, outside = "00000000-0000-7000-8000-000000000001", "00000000-0000-7000-8000-000000000002"
    for statement in (
        """INSERT INTO events (stream_id, version, type, data) VALUES
               (%(owner)s, 1, 'UserRegistered',
                '{"username": "bench", "email": "bench@example.com", "role": "customer", "status": "active"}'),
               (%(outside)s, 1, 'AccountOpened',
                '{"user_id": null, "currency": "USD", "kind": "outside", "name": "Outside USD", "is_default": false}')""",
        """INSERT INTO events (stream_id, version, type, data)
           SELECT md5(i::text)::uuid, 1, 'AccountOpened',
                  json_build_object('user_id', %(owner)s, 'currency', 'USD', 'kind', 'customer', 'name', NULL, 'is_default', false)
             FROM generate_series(0, %(accounts)s - 1) i""",
        # One after the other, so each account's versions and balances follow from the number.
        """INSERT INTO events (stream_id, version, type, schema, data)
           SELECT md5('t' || i)::uuid, side.version, side.type, side.schema, side.data
             FROM generate_series(0, %(transactions)s - 1) i
            CROSS JOIN LATERAL (VALUES
                (1, 'TransactionSubmitted', 2, json_build_object(
                    'lane', 0, 'type', 'credit', 'from_user_id', NULL, 'to_user_id', %(owner)s, 'from_account_id', NULL,
                    'to_account_id', md5((i %% %(accounts)s)::text)::uuid, 'amount', 1, 'currency', 'USD', 'to_amount', 1,
                    'to_currency', 'USD', 'rate', NULL, 'description', NULL, 'reference', 'R' || i, 'metadata', NULL,
                    'reverses_id', NULL, 'awaited', false, 'effective_at', NULL, 'batch_id', NULL, 'batch_index', NULL)),
                (2, 'TransactionCompleted', 1, json_build_object('entries', json_build_array(
                    json_build_array(%(outside)s, i + 1, -1, -i - 1),
                    json_build_array(md5((i %% %(accounts)s)::text)::uuid, i / %(accounts)s + 1, 1, i / %(accounts)s + 1))))
            ) AS side (version, type, schema, data)
            ORDER BY i, side.version""",
        "ANALYZE events",
    ):
        patient = {**environ, "DATABASE_URL": environ["DATABASE_URL"] + "?options=-c%20statement_timeout%3D0"}
        query(patient, statement, owner=owner, outside=outside, accounts=accounts, transactions=transactions)
