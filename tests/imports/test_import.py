"""What a file becomes in the books."""

from sqlalchemy import text

from bank.db import reader, unit_of_work
from bank.imports import lines, run
from tests.imports.conftest import HEADER


def test_lines_become_posted_transactions_that_count_from_their_dates(bring_in, balances, owner):
    done = bring_in(HEADER + "giro,2020-01-31,credit,100.00,EUR,r1,Wages\ngiro,2020-02-01T12:30:00+01:00,debit,30.50,EUR,r2,\n")
    assert done.code == 0, done.output
    assert "2 lines: 2 posted, 0 there before, 0 refused" in done.output
    assert "Proven: the totals of every account (1) are those of the file." in done.output
    assert balances() == {"giro": 6950}
    first, second = reversed(owner.get("/transactions/history").json["data"])
    assert (first["type"], first["amount"], first["status"]) == ("credit", "100.00", "completed")
    assert (first["reference"], first["description"], first["effective_at"]) == ("r1", "Wages", "2020-01-31T00:00:00.000000Z")
    assert (second["type"], second["reference"], second["description"]) == ("debit", "r2", None)
    assert second["effective_at"] == "2020-02-01T11:30:00.000000Z"
    account_id = first["to_account_id"]
    then = owner.get(f"/balances/at-time?account_id={account_id}&at=2020-01-31T23:59:59Z").json
    assert then["amount"] == "100.00"


def test_each_account_of_the_file_is_opened_once_with_its_events(bring_in, balances, owner, context):
    done = bring_in(HEADER + "".join(f"a{n % 3},2020-01-01,credit,1,EUR,,\n" for n in range(9)), "--overdraft-limit", "5")
    assert done.code == 0, done.output
    assert balances() == {"a0": 300, "a1": 300, "a2": 300}
    accounts = owner.get("/accounts").json["data"]
    assert [account["name"] for account in accounts] == ["a0", "a1", "a2"]
    assert {account["overdraft_limit"] for account in accounts} == {"5.00"}
    with reader() as session:
        events = session.execute(
            text("SELECT type, version FROM events WHERE stream_id = ANY(CAST(:ids AS uuid[])) ORDER BY stream_id, version"),
            {"ids": [account["id"] for account in accounts]},
        ).all()
        versions = session.execute(text("SELECT version, is_default FROM accounts WHERE user_id = :id ORDER BY id"), {"id": owner.id}).all()
    assert events == [("AccountOpened", 1), ("AccountChanged", 2)] * 3
    assert versions == [(2, True), (2, False), (2, False)]


def test_an_account_spends_in_the_order_of_the_file(bring_in, balances):
    pairs = "".join(f"giro,2020-01-01,credit,{n},EUR,,\ngiro,2020-01-01,debit,{n},EUR,,\n" for n in range(1, 300))
    done = bring_in(HEADER + pairs)
    assert done.code == 0, done.output
    assert balances() == {"giro": 0}


def test_the_submissions_stand_in_the_log_as_if_each_had_been_made_alone(bring_in, owner, context):
    bring_in(HEADER + 'giro,2020-01-31,credit,100.00,EUR,"r ""1""",Café\n')
    with reader() as session:
        row = session.execute(
            text(
                """SELECT t.id::text, t.seq = e.position, e.data, t.created_at = e.recorded_at, t.version, e.request_id, t.request_id
                     FROM transactions t JOIN events e ON e.stream_id = t.id AND e.version = 1 WHERE t.to_user_id = :owner"""
            ),
            {"owner": owner.id},
        ).one()
        import_id = session.execute(text("SELECT id::text FROM imports WHERE owner_id = :owner"), {"owner": owner.id}).scalar_one()
    assert (row[1], row[3], row[4]) == (True, True, 2)
    assert row[2]["reference"] == 'r "1"'
    assert row[2]["description"] == "Café"
    assert row[2]["effective_at"] == "2020-01-31T00:00:00.000000Z"
    assert row[5] == row[6] == f"import-{import_id}"


def test_a_second_run_of_the_same_file_changes_nothing_and_says_so(bring_in, balances, context):
    content = HEADER + "giro,2020-01-31,credit,100.00,EUR,r1,\ngiro,2020-01-31,credit,bad,EUR,r2,\n"
    first = bring_in(content)
    before = _counts()
    second = bring_in(content)
    assert "nothing was changed" in second.output and "nothing was changed" not in first.output
    assert "2 lines: 1 posted, 0 there before, 1 refused" in second.output
    assert second.refused == first.refused and second.code == first.code == 3
    assert balances() == {"giro": 10_000}
    assert _counts() == before


def test_what_was_appended_to_a_file_is_added_and_the_rest_not_doubled(bring_in, balances):
    start = HEADER + "giro,2020-01-31,credit,100.00,EUR,,\ngiro,2020-01-31,credit,100.00,EUR,,\n"
    bring_in(start)
    grown = bring_in(start + "giro,2020-02-01,credit,100.00,EUR,,\ngiro,2020-02-01,credit,0,EUR,,\n")
    assert "4 lines: 3 posted, 0 there before, 1 refused" in grown.output
    assert grown.reasons == {5: "bad_amount"}
    assert balances() == {"giro": 30_000}
    again = bring_in(start)
    assert "nothing was changed" in again.output and again.code == 0
    assert balances() == {"giro": 30_000}


def test_a_last_line_that_went_on_is_another_line(bring_in, balances):
    start = HEADER + "giro,2020-01-31,credit,100.00,EUR,r1,\ngiro,2020-01-31,credit,1"
    bring_in(start)
    grown = bring_in(start + "5,EUR,r2,\n")
    assert grown.code == 0, grown.output
    assert balances() == {"giro": 11_500}


def test_a_reference_moves_an_accounts_money_once_whatever_file_it_is_in(bring_in, balances):
    bring_in(HEADER + "giro,2020-01-31,credit,100.00,EUR,r1,\ngiro,2020-01-31,credit,5,EUR,r2,\n")
    other = bring_in(
        HEADER + "giro,2020-01-31,credit,100,EUR,r1,other words\ngiro,2020-02-01,debit,1,EUR,r3,\nhome,2020-01-31,credit,7,EUR,r1,\n"
    )
    assert other.code == 0, other.output
    assert "3 lines: 2 posted, 1 there before, 0 refused" in other.output
    assert balances() == {"giro": 10_400, "home": 700}


def test_a_reference_that_stood_for_something_else_is_refused(bring_in, balances):
    bring_in(HEADER + "giro,2020-01-31,credit,100.00,EUR,r1,\n")
    rows = ["2020-01-31,credit,100.01", "2020-01-31,debit,100.00", "2020-01-30,credit,100.00"]
    for row in rows:
        assert bring_in(HEADER + f"giro,{row},EUR,r1,\n").reasons == {2: "reference_reused"}
    assert balances() == {"giro": 10_000}


def test_the_second_line_with_a_reference_is_refused_also_far_behind_the_first(bring_in, balances, monkeypatch):
    monkeypatch.setattr(lines, "CHUNK", 2)
    rows = ["giro,2020-01-31,credit,1,EUR,r1,\n", "giro,2020-01-31,credit,1,EUR,r1,\n", "giro,2020-01-31,credit,2,EUR,r2,\n"]
    done = bring_in(HEADER + "".join(rows + rows[:1]))
    assert done.reasons == {3: "duplicate_reference", 5: "duplicate_reference"}
    again = bring_in(HEADER + "".join([*rows[:2], "giro,2020-01-31,credit,3,EUR,r3,\n", rows[0]]))
    assert again.reasons == {3: "duplicate_reference", 5: "duplicate_reference"}, "the same holds for what is there before"
    assert balances() == {"giro": 600}


def test_what_the_ledger_refused_can_be_imported_when_it_is_put_right(bring_in, balances, owner, teller, tmp_path):
    rows = "giro,2020-01-31,credit,10,EUR,r1,\ngiro,2020-01-31,debit,30,EUR,r2,rent\ngiro,2020-01-31,debit,4,EUR,r3,\n"
    done = bring_in(HEADER + rows)
    assert done.code == 3
    assert "3 lines: 2 posted, 0 there before, 1 refused" in done.output
    assert done.refused == [
        {
            "account": "giro", "date": "2020-01-31", "type": "debit", "amount": "30", "currency": "EUR", "reference": "r2",
            "description": "rent", "refused_line": "3", "refused_reason": "insufficient_funds",
            "refused_detail": "The ledger refused it.",
        }
    ]  # fmt: skip
    assert balances() == {"giro": 600}
    account = owner.get("/accounts").json["data"][0]
    assert teller.patch(f"/accounts/{account['id']}", {"overdraft_limit": "24"}).status_code == 200
    again = bring_in((tmp_path / "history.csv.refused.csv").read_bytes(), name="again.csv")
    assert again.code == 0, again.output
    assert balances() == {"giro": -2400}
    assert "nothing was changed" in bring_in(HEADER + rows).output


def test_an_account_has_one_currency(bring_in, balances):
    done = bring_in(HEADER + "giro,2020-01-31,credit,10,EUR,,\ngiro,2020-01-31,credit,10,JPY,,\nyen,2020-01-31,credit,10,JPY,,\n")
    assert done.reasons == {3: "currency_mismatch"}
    assert balances() == {"giro": 1000, "yen": 10}


def test_without_an_owner_the_accounts_are_a_users_who_cannot_log_in(bring_in, context, tmp_path):
    done = bring_in(HEADER + "anybody,2020-01-31,credit,10,EUR,,\n", "--owner", "imported")
    assert done.code == 0, done.output
    with reader() as session:
        user = session.execute(text("SELECT password_hash, role FROM users WHERE username = 'imported'")).one()
    assert user == (None, "customer")


def test_an_owner_must_be_there(bring_in):
    done = bring_in(HEADER, "--owner", "nobody-of-this-name")
    assert done.code == 1
    assert "There is no user 'nobody-of-this-name'" in done.output


def test_a_run_that_breaks_off_between_chunks_goes_on_later(bring_in, balances, monkeypatch, context):
    monkeypatch.setattr(lines, "CHUNK", 2)
    content = HEADER + "".join(f"giro,2020-01-{n:02},credit,{n},EUR,,\n" for n in range(1, 8))
    real, calls = run.submit_many, []

    def breaks(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        real(*arguments)

    monkeypatch.setattr(run, "submit_many", breaks)
    assert bring_in(content).code != 0
    monkeypatch.setattr(run, "submit_many", real)
    done = bring_in(content)
    assert done.code == 0, done.output
    assert "7 lines: 7 posted" in done.output
    assert balances() == {"giro": 2800}


def test_two_processes_cannot_import_one_file_at_once(bring_in, balances, monkeypatch, owner, context):
    monkeypatch.setattr(lines, "CHUNK", 2)
    content = HEADER + "".join(f"giro,2020-01-{n:02},credit,{n},EUR,,\n" for n in range(1, 8))
    real = run.submit_many

    def overtaken(*arguments):
        monkeypatch.setattr(run, "submit_many", real)
        real(*arguments)
        # After the next commit it looks as if another one had gone on from there.
        monkeypatch.setattr(run.store, "save_progress", lambda session, import_id, done: real_save(session, import_id, done + 1))

    real_save = run.store.save_progress
    monkeypatch.setattr(run, "submit_many", overtaken)
    done = bring_in(content)
    assert done.code == 1
    assert "Another process is importing this file" in done.output


def test_a_total_that_differs_is_found_and_named(bring_in, monkeypatch):
    real = run.submit_many

    def one_unit_more(connection, transactions, origin):
        changed = [
            (id_, event.__class__(**{**_fields(event), "amount": event.amount + 1, "to_amount": event.amount + 1}))
            for id_, event in transactions
        ]
        real(connection, changed, origin)

    monkeypatch.setattr(run, "submit_many", one_unit_more)
    done = bring_in(HEADER + "giro,2020-01-31,credit,100.00,EUR,r1,\n")
    assert done.code == 1
    assert "NOT PROVEN: accounts that differ from the file: 1." in done.output
    assert "giro: file 100.00 in, 0.00 out, 1 lines; books 100.01 in, 0.00 out, 1 lines" in done.output


def test_a_line_that_got_lost_is_found(bring_in, owner, context):
    content = HEADER + "giro,2020-01-31,credit,100.00,EUR,,\nhome,2020-01-31,credit,1,EUR,,\n"
    bring_in(content)
    with unit_of_work() as session:
        session.execute(
            text("DELETE FROM import_lines WHERE line = 3 AND import_id IN (SELECT id FROM imports WHERE owner_id = :id)"), {"id": owner.id}
        )
    done = bring_in(content)
    assert done.code == 1
    assert "The file has 2 lines, and 1 are recorded." in done.output
    assert "home: file 1.00 in, 0.00 out, 1 lines; books 0.00 in, 0.00 out, 0 lines" in done.output


def test_a_dry_run_writes_nothing_and_foretells_what_the_import_does(bring_in, balances, context, tmp_path):
    rows = "giro,2020-01-31,credit,10,EUR,r1,\ngiro,2020-01-31,debit,10.01,EUR,r2,\n"
    rows += "giro,2020-01-31,debit,4,EUR,r1,\nnew,2020-13-01,credit,1,EUR,,\n"
    before = _counts()
    trial = bring_in(HEADER + rows, "--dry-run")
    assert trial.code == 3
    assert "of the rest 1 would be posted, 0 are there before, 3 would be refused; 1 accounts would be opened" in trial.output
    for text_ in ("line 3: insufficient_funds", "line 4: duplicate_reference", "line 5: bad_date"):
        assert text_ in trial.output
    assert _counts() == before and trial.refused == []
    assert bring_in(HEADER + rows).reasons == {3: "insufficient_funds", 4: "duplicate_reference", 5: "bad_date"}
    after = bring_in(HEADER + rows + "giro,2020-01-31,debit,6,EUR,r4,\ngiro,2020-01-31,debit,5,EUR,r5,\n", "--dry-run")
    assert "4 lines are in already; of the rest 1 would be posted" in after.output
    assert "line 7: insufficient_funds" in after.output
    assert balances() == {"giro": 1000}


def _fields(event):
    return {name: getattr(event, name) for name in event.__slots__}


def _counts():
    tables = ("users", "accounts", "transactions", "entries", "events", "audit_logs", "imports", "import_lines")
    with reader() as session:
        return {table: session.execute(text(f"SELECT count(*) FROM {table}")).scalar_one() for table in tables}
