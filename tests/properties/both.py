"""The bank beside the model: each act is done to both, and what they say must be the same."""

from collections import Counter, defaultdict
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import quote

from flask import Flask
from werkzeug.test import TestResponse

from bank.ledger.system import lane_of
from bank.processing.expiry import expire_holds
from bank.processing.processor import drain_once
from bank.schedules.jobs import run_due
from tests.conftest import Person
from tests.properties.acts import FITS, Again, Ask, AskQuote, Change, Open, Pass, Post, Publish, Reschedule, Rest, SetLimit, SetRule, Unset
from tests.properties.calendar import Schedule
from tests.properties.clock import Clock
from tests.properties.ledger import Batch, Refused, Transaction
from tests.properties.limits import Limit, Rule
from tests.properties.model import STAFF, Model


class Both:
    """One run: new users, new accounts, and a model of its own."""

    def __init__(self, app: Flask, clock: Clock, people: dict[str, Person], currencies: dict[str, int], model: Model) -> None:
        self._app, self._clock, self._people, self._model = app, clock, people, model
        # Each currency with its decimals.
        self._currencies = currencies
        self._began = clock.now()
        # A whole second, since a rule cannot repeat a fraction of one.
        self._base = self._began.replace(microsecond=0)
        self.accounts: list[str] = []
        self._ids: dict[Any, str] = {}
        # The first answer to each request with a key, and the last of these requests.
        self._answers: dict[tuple[str, str, str], bytes] = {}
        self._keyed: tuple[Any, ...] | None = None

    # What is done.

    def do(self, act: Any) -> None:
        """Do it to both. Fails where they differ."""
        if isinstance(act, Post):
            self.post()
        else:
            getattr(self, f"_{type(act).__name__.lower()}")(act)

    def _ask(self, act: Ask) -> None:
        body = self._body(act.operation, act.fields)
        if body is not None:
            self.ask(act.caller or self._entitled(act.operation, body), act.operation, body, act.key, dry=act.dry)
            if act.waits and not act.dry:
                self.post()

    def _again(self, act: Again) -> None:
        if self._keyed is not None:
            self.ask(*self._keyed)

    def ask(self, caller: str, operation: str, body: dict[str, Any], key: str | None = None, *, dry: bool = False) -> None:
        """Send a request and compare its answer."""
        path, sent = self._request(operation, body)
        # The staff's keys of other runs are others.
        headers = {"Idempotency-Key": f"{self._people['alice'].id}/{key}"} if key else {}
        answer = self._people[caller].post(path + ("?dry_run=true" if dry else ""), sent, headers=headers)
        try:
            if dry:
                self._compare_preview(answer, caller, *self._model.preview(caller, operation, body))
                return
            made, again = self._model.ask(caller, operation, body, key)
        except Refused as refused:
            assert (answer.status_code, answer.json["code"]) == refused.args, answer.json
            return
        assert answer.status_code == (201 if isinstance(made, Schedule) else 202), answer.json
        assert ("Idempotent-Replayed" in answer.headers) is again
        if key:
            self._keyed = caller, operation, body, key
            assert self._answers.setdefault((caller, operation, key), answer.data) == answer.data
        if again:
            return
        self._ids[made] = answer.json["id"]
        if isinstance(made, Batch):
            self.compare_transactions()
        else:
            told = answer.json["transfer"] if isinstance(made, Schedule) else answer.json
            assert told["amount"] == self._shown(made.body["amount"] if isinstance(made, Schedule) else made.amount, told["currency"])
            self._meet(made, told)

    def _open(self, act: Open) -> None:
        currency = list(self._currencies)[act.currency]
        answer = self._people[act.owner].post("/accounts", {"currency": currency})
        assert answer.status_code == 201, answer.json
        self._model.open(act.owner, currency)
        self._name(answer.json["id"])

    def _change(self, act: Change) -> None:
        account = act.account % len(self.accounts)
        to = {"status": act.to["status"]} if "status" in act.to else {"overdraft_limit": self._money(act.to["limit"], account)}
        answer = self._people[act.caller].patch(f"/accounts/{self.accounts[account]}", to)
        try:
            self._model.change(act.caller, account, **act.to)
            assert answer.status_code == 200, answer.json
        except Refused as refused:
            assert (answer.status_code, answer.json["code"]) == refused.args, answer.json

    def _publish(self, act: Publish) -> None:
        currency = list(self._currencies)[act.currency]
        answer = self._people["admin"].post("/fx/rates", {"currency": currency, "rate": act.rate})
        assert answer.status_code == 201, answer.json
        self._model.rates[currency] = Decimal(act.rate)

    def _askquote(self, act: AskQuote) -> None:
        account = self._model.accounts[act.source % len(self.accounts)]
        body = {"currency": account.currency, "amount": _resolve(act.amount, account.amount), "to_currency": self._other(account.currency)}
        sent = {**body, "amount": self._shown(body["amount"], account.currency)}
        answer = self._people[account.owner].post("/fx/quotes", sent)
        try:
            quote = self._model.quote(account.owner, body)
        except Refused as refused:
            assert (answer.status_code, answer.json["code"]) == refused.args, answer.json
            return
        assert answer.status_code == 201, answer.json
        assert answer.json["to_amount"] == self._shown(quote.body["to_amount"], quote.body["to_currency"])
        self._ids[quote] = answer.json["id"]

    def _other(self, currency: str) -> str:
        """The other currency, with a rate: what a run before has published counts, so each tells its own before its first exchange."""
        for number, each in enumerate(self._currencies):
            if each not in self._model.rates:
                self._publish(Publish(number, "1.25"))
        return next(each for each in self._currencies if each != currency)

    def _setlimit(self, act: SetLimit) -> None:
        number = act.account % len(self.accounts)
        account, by_amount = self._model.accounts[number], act.kind != "count"
        window = act.window if act.kind in ("sum", "count") else None
        subject = {
            "account": {"account_id": self.accounts[number]},
            "user": {"user_id": self._people[account.owner].id},
            "role": {"role": "customer"},
        }[act.scope]
        says = {"amount": self._money(act.most, number)} if by_amount else {"count": act.most}
        says |= {"window": window} if window else {}
        answer = self._people["admin"].post("/limits", {**subject, "currency": account.currency, "kind": act.kind, **says})
        assert answer.status_code == 201, answer.json
        user = account.owner if act.scope == "user" else None
        limit = Limit(number if act.scope == "account" else None, user, account.currency, act.kind, act.most, window)
        self._model.limits.append(limit)
        self._ids[limit] = answer.json["id"]

    def _setrule(self, act: SetRule) -> None:
        body = {"name": "A rule", "expression": f"transaction.amount > {act.over}", "effect": "deny" if act.denies else "flag"}
        answer = self._people["admin"].post("/rules", body)
        assert answer.status_code == 201, answer.json
        self._model.rules.append(Rule(act.over, act.denies))
        self._ids[self._model.rules[-1]] = answer.json["id"]

    def _unset(self, act: Unset) -> None:
        found: list[Any] = [*self._model.limits, *self._model.rules]
        if found:
            gone = found[act.which % len(found)]
            (self._model.limits if isinstance(gone, Limit) else self._model.rules).remove(gone)
            path = "limits" if isinstance(gone, Limit) else "rules"
            assert self._people["admin"].request("DELETE", f"/{path}/{self._ids[gone]}").status_code == 204

    def _reschedule(self, act: Reschedule) -> None:
        if not self._model.schedules:
            return
        number = -1 - act.schedule % len(self._model.schedules)
        schedule = self._model.schedules[number]
        caller = act.caller or self._model.accounts[schedule.source].owner
        path, gone = f"/schedules/{self._ids[schedule]}", act.status == "deleted"
        answer = self._people[caller].request("DELETE", path) if gone else self._people[caller].patch(path, {"status": act.status})
        try:
            self._model.reschedule(caller, number, act.status)
            assert answer.status_code == (204 if gone else 200), answer.json
        except Refused as refused:
            assert (answer.status_code, answer.json["code"]) == refused.args, answer.json

    def post(self) -> None:
        """Let the workers do what waits."""
        with self._app.app_context():
            for lane in self._model.lanes_that_wait():
                while drain_once(lane):
                    pass
        self._model.post()

    def _pass(self, act: Pass) -> None:
        if act.hours:
            self._clock.put_forward(timedelta(hours=act.hours))
            self._model.now += act.hours
        with self._app.app_context():
            if act.expire:
                while expire_holds():
                    pass
                self._model.expire()
            if act.run:
                while run_due():
                    pass
                self._model.tick()
                if self._model.transactions[-1] not in self._ids:
                    self.compare_transactions()

    # What is said of it.

    def _body(self, operation: str, drawn: dict[str, Any]) -> dict[str, Any] | None:
        """The fields with what is there in the place of their numbers; None where there is nothing yet to ask it of."""
        model = self._model
        if operation == "batch":
            return {"atomic": drawn["atomic"], "items": [self._body(item["type"], item) for item in drawn["items"]]}
        if "of" in drawn:
            # Mostly one of which something can be taken, let go or moved back, or of which it could once.
            holds = operation in ("capture", "void")
            once = [n for n, t in enumerate(model.transactions) if (t.ends is not None) is holds and t.operation != "rollback"]
            now = [n for n in once if model.transactions[n].status == ("held" if holds else "completed")]
            wanted = (now if drawn["of"] < FITS // 2 else once if drawn["of"] < FITS else []) or list(range(len(model.transactions)))
            of = wanted[-1 - drawn["of"] % len(wanted)]
            original = model.transactions[of]
            left = original.held if operation == "capture" else original.amount - original.moved_back
            return {"of": of} | ({"amount": _resolve(drawn["amount"], left)} if "amount" in drawn else {})
        source = drawn["source"] % len(self.accounts) if "source" in drawn else None
        account = self._target(source, drawn["account"], exchanges="exchanges" in drawn or "quote" in drawn)
        if "quote" in drawn:
            if not model.quotes:
                return None
            number = -1 - drawn["quote"] % len(model.quotes) + len(model.quotes)
            quoted = model.quotes[number].body
            body = {"quote": number, "from": source, "amount": quoted["amount"], "currency": quoted["currency"]}
            return body | ({"to_user": drawn["user"]} if "user" in drawn else {"to": account})
        spends = account if source is None else source
        currency = model.accounts[spends].currency
        if "currency" in drawn:
            currency = list(self._currencies)[drawn["currency"]]
        has = model.accounts[spends]
        body = {"amount": _resolve(drawn["amount"], has.amount - has.held + has.limit), "currency": currency}
        body |= {name: drawn[name] for name in ("type", "reference", "hold", "skips", "attempts") if name in drawn}
        # Times are those of the run: asked once more an hour later, it is another request.
        if "exchanges" in drawn:
            body["to_currency"] = self._other(currency)
        body |= {"until": model.now + drawn["hours"]} if "hours" in drawn else {}
        if operation in ("credit", "debit"):
            body |= {"since": model.now - drawn["late"]} if "late" in drawn else {}
            return body | ({"user": drawn["user"]} if "user" in drawn else {"account": account})
        body |= {"to_user": drawn["user"]} if "user" in drawn else {"to": account}
        if operation == "schedule":
            # Some minutes before the hour, each schedule others, so that no two are due at once.
            first = model.now + drawn["first"] - (1, 2, 3, 7, 8, 9, 11, 12, 13, 14)[len(model.schedules) % 10] / 60
            body |= {"times": [first + n * drawn["every"] for n in range(drawn["count"])], "every": drawn["every"]}
        return body if source is None else body | {"from": source}

    def _target(self, source: int | None, drawn: int, *, exchanges: bool) -> int:
        """Mostly another account of the same currency, or for an exchange of the other: anything else is refused."""
        accounts = self._model.accounts
        if source is not None and drawn < FITS:
            fits = [n for n, each in enumerate(accounts) if n != source and (each.currency != accounts[source].currency) is exchanges]
            if fits:
                return fits[drawn % len(fits)]
        return drawn % len(accounts)

    def _entitled(self, operation: str, body: dict[str, Any]) -> str:
        """Who may ask for it."""
        if operation in ("debit", "transfer", "schedule"):
            side = body.get("from", body.get("account"))
            return body.get("user", "alice") if side is None else self._model.accounts[side].owner
        if operation in ("capture", "void", "rollback"):
            target = self._model.transactions[body["of"]].target
            return "teller" if target is None else self._model.accounts[target].owner
        types = {item["type"] for item in body.get("items", ())}
        return "admin" if "transfer" in types else "teller"

    def _request(self, operation: str, body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Where it is asked for, and the body as the API takes it."""
        if operation == "batch":
            mode = "atomic" if body["atomic"] else "independent"
            items = [{"type": item["type"], **self._request(item["type"], item)[1]} for item in body["items"]]
            return "/transactions/batch", {"mode": mode, "transactions": items}
        if "of" in body:
            of = self._model.transactions[body["of"]]
            sent = {"amount": self._shown(body["amount"], of.currency)} if "amount" in body else {}
            sent |= {"reason": "Returned"} if operation == "rollback" else {}
            return f"/transactions/{self._ids[of]}/{operation}", sent
        sent = {"amount": self._shown(body["amount"], body["currency"]), "currency": body["currency"]}
        sent |= {name: body[name] for name in ("reference", "hold", "to_currency") if name in body}
        for name, told in (("account", "account_id"), ("from", "from_account_id"), ("to", "to_account_id")):
            sent |= {told: self.accounts[body[name]]} if name in body else {}
        sent |= {"quote_id": self._ids[self._model.quotes[body["quote"]]]} if "quote" in body else {}
        sent |= {"user_id": self._people[body["user"]].id} if "user" in body else {}
        sent |= {"to_username": self._people[body["to_user"]].username} if "to_user" in body else {}
        sent |= {"expires_at": self._time(body["until"])} if "until" in body else {}
        sent |= {"effective_at": self._time(body["since"])} if "since" in body else {}
        if operation != "schedule":
            return f"/transactions/{operation}", sent
        start, count = self._time(body["times"][0]), len(body["times"])
        rrule = f"FREQ=HOURLY;INTERVAL={body['every']};COUNT={count}"
        timing = {"recurrence": {"rrule": rrule, "time_zone": "UTC", "start": start}} if count > 1 else {"run_at": start}
        retry = {"attempts": body["attempts"], "delay_seconds": 3600}
        return "/schedules", {"transfer": sent, "misfire": "skip" if body["skips"] else "catch_up", "retry": retry, **timing}

    def _time(self, hours: float) -> str:
        """The time so many hours after the run began, as the API tells it."""
        # A schedule's minutes are whole ones.
        return (self._base + timedelta(minutes=round(hours * 60))).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    def _shown(self, amount: int, currency: str) -> str:
        return f"{Decimal(amount).scaleb(-self._currencies[currency]):f}"

    def _money(self, amount: int, account: int) -> str:
        return self._shown(amount, self._model.accounts[account].currency)

    def _name(self, account_id: str) -> None:
        """Remember the id of the next account that the model has opened."""
        self.accounts.append(account_id)
        self._model.accounts[len(self.accounts) - 1].lane = lane_of(account_id, self._app.config["BANK"].lanes)

    def _meet(self, made: Transaction | Schedule, told: dict[str, Any]) -> None:
        """Both sides of it are the model's; one that was opened for it gets its id."""
        for side, name in ((made.source, "from_account_id"), (made.target, "to_account_id")):
            if side is not None and side == len(self.accounts):
                self._name(told[name])
            assert told[name] == (None if side is None else self.accounts[side])

    # What is compared.

    def _compare_preview(self, answer: TestResponse, caller: str, made: Any, moved: list[tuple[int, int, int]]) -> None:
        assert answer.status_code == 200, answer.json
        assert answer.json["id"] is None
        if isinstance(made, Schedule):
            assert answer.json["next_run_at"] == self._time(made.coming[0])
            return
        if isinstance(made, Batch):
            assert [(item["status"], item["failure_code"]) for item in answer.json["data"]] == [(t.status, t.code) for t in made.items]
            return
        assert (answer.json["status"], answer.json["failure_code"]) == (made.status, made.code), answer.json
        shown = {entry["account_id"]: entry for entry in answer.json["entries"]}
        assert len(shown) == (0 if not moved else 2 if made.currency == made.to_currency else 4)
        for account, amount, balance in moved:
            # One that would be opened has no name yet.
            if account < len(self.accounts):
                entry = shown[self.accounts[account]]
                assert entry["amount"] == self._money(amount, account)
                sees = caller in (*STAFF, self._model.accounts[account].owner)
                assert entry["balance"] == (self._money(balance, account) if sees else None)

    def _get(self, path: str) -> Any:
        answer = self._people["admin"].get(path)
        assert answer.status_code == 200, answer.json
        return answer.json

    def _pages(self, path: str) -> list[dict[str, Any]]:
        page = self._get(path)
        found = list(page["data"])
        while page["has_more"]:
            page = self._get(f"{path}&cursor={page['next_cursor']}")
            found += page["data"]
        return found

    def compare_transactions(self) -> list[dict[str, Any]]:
        """All transactions are the model's, in their order, and as it has them; how the bank tells of them."""
        found = self._pages(f"/transactions/history?limit=200&from={quote(self._began.isoformat())}")[::-1]
        for t, told in zip(self._model.transactions, found, strict=True):
            assert self._ids.setdefault(t, told["id"]) == told["id"]
            if t.batch:
                assert self._ids[t.batch] == told["batch_id"]
            self._meet(t, told)
            of, kind = {t.operation: t.of and self._ids[t.of]}, t.operation
            assert (told["to_amount"], told["to_currency"]) == (self._shown(t.to_amount, t.to_currency), t.to_currency), told
            money = {"amount": t.amount, "rolled_back_amount": t.moved_back, "held_amount": t.held, "captured_amount": t.captured}
            expected = {
                "type": "transfer" if kind in ("capture", "void") else kind,
                "status": t.status,
                "failure_code": t.code,
                "currency": t.currency,
                "reference": t.reference,
                "batch_id": t.batch and self._ids[t.batch],
                "schedule_id": t.schedule and self._ids[t.schedule],
                "reverses_id": of.get("rollback"),
                "captures_id": of.get("capture"),
                "voids_id": of.get("void"),
                **{name: self._shown(amount, t.currency) for name, amount in money.items()},
            }
            assert {name: told[name] for name in expected} == expected, told
        return found

    def compare(self) -> None:
        """Everything is as the model has it: accounts, transactions, batches, schedules, and balances at any time."""
        transactions = self.compare_transactions()
        counts = Counter(account for account, _, _ in self._model.entries)
        owners = [person.id for name, person in self._people.items() if name not in STAFF]
        told = {one["id"]: one for owner in owners for one in self._pages(f"/accounts?limit=200&user_id={owner}")}
        assert told.keys() == set(self.accounts)
        for number, (account, account_id) in enumerate(zip(self._model.accounts, self.accounts, strict=True)):
            money = {
                "balance": account.amount,
                "held": account.held,
                "available": account.amount - account.held + account.limit,
                "overdraft_limit": account.limit,
            }
            expected = {"status": account.status, "currency": account.currency, "version": counts[number]}
            expected |= {name: self._shown(amount, account.currency) for name, amount in money.items()}
            assert {name: told[account_id][name] for name in expected} == expected, (number, told[account_id])
        # The last of them, be it the one that every run begins with.
        self._compare_batch(next(t.batch for t in reversed(self._model.transactions) if t.batch))
        for schedule in self._model.schedules:
            self._compare_schedule(schedule)
        if counts:
            self._compare_times(counts.most_common(1)[0][0], transactions)

    def _compare_batch(self, batch: Batch) -> None:
        told = self._get(f"/transactions/batch/{self._ids[batch]}?limit=1")
        statuses = Counter(t.status for t in batch.items)
        assert {status: count for status, count in told["counts"].items() if count} == statuses
        refused = [(n, t.code) for n, t in enumerate(batch.items) if t.code not in (None, "batch_refused")] if batch.atomic else []
        failure = told["failure"] and (told["failure"]["index"], told["failure"]["code"])
        assert failure == (refused[0] if refused else None)
        assert told["status"] == ("pending" if statuses["pending"] else "failed" if refused else "completed")

    def _compare_schedule(self, schedule: Schedule) -> None:
        told = self._get(f"/schedules/{self._ids[schedule]}")
        assert (told["status"], told["next_run_at"]) == (schedule.status, self._time(schedule.coming[0]) if schedule.coming else None)
        runs = self._pages(f"/schedules/{self._ids[schedule]}/runs?limit=200")[::-1]
        expected = [(self._time(run.due), run.attempts, run.transaction and self._ids[run.transaction]) for run in schedule.runs]
        assert [(run["due_at"], run["attempts"], run["transaction_id"]) for run in runs] == expected

    def _compare_times(self, account: int, transactions: list[dict[str, Any]]) -> None:
        """What the account had at any time, as it was known at any: the bank says at what times, the model how much."""
        currency = self._model.accounts[account].currency
        times = {told["id"]: (told["effective_at"], told["completed_at"]) for told in transactions}
        moved = [(*times[self._ids[t]], amount) for number, t, amount in self._model.entries if number == account]
        base = f"account_id={self.accounts[account]}"
        # Half of what is known now, or what half of it was known.
        half = len(moved) // 2
        at, known_at = (sorted(moved)[half][0], moved[-1][1]) if len(moved) % 2 else (max(moved)[0], moved[half][1])
        told = self._get(f"/balances/at-time?{base}&at={at}&known_at={known_at}")
        counts = sum(amount for effective_at, posted_at, amount in moved if effective_at <= at and posted_at <= known_at)
        assert told["amount"] == self._shown(counts, currency), (at, known_at)
        days: dict[str, list[int]] = defaultdict(list)
        for effective_at, _, amount in moved:
            days[effective_at[:10]].append(amount)
        until = datetime.fromisoformat(max(days)) + timedelta(days=1)
        balance = 0
        for step in self._get(f"/balances/historical?{base}&from={min(days)}T00:00:00Z&to={until.date()}T00:00:00Z")["data"]:
            day = days.get(step["from"][:10], [])
            credits, debits = sum(a for a in day if a > 0), -sum(a for a in day if a < 0)
            expected = [balance, balance + credits - debits, credits, debits]
            balance += credits - debits
            assert [step[name] for name in ("opening", "closing", "credits", "debits")] == [self._shown(a, currency) for a in expected]
            assert step["count"] == len(day)

    def end(self) -> None:
        """Leave nothing that would happen in a later run, or count in it."""
        while self._model.limits or self._model.rules:
            self._unset(Unset(0))
        for number, schedule in enumerate(self._model.schedules):
            # A finished one may still try a run again.
            if schedule in self._ids and schedule.status != "deleted":
                self._people["admin"].request("DELETE", f"/schedules/{self._ids[schedule]}")
                self._model.schedules[number].status = "deleted"


def _resolve(amount: int | Rest, rest: int) -> int:
    return rest + amount.more if isinstance(amount, Rest) else amount
