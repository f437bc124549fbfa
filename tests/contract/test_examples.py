"""Every operation is described, and every example of a request is sent, as it is, to a bank that runs.

What stands for somebody's id in an example (`bank.web.examples`) is replaced by the id that its part has here. `If-Match` is
left out: its example is an ETag that no resource has.
"""

import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import pyotp
import pytest

from bank.web.examples import CAST
from tests.contract.document import Document
from tests.processes import ADMIN_PASSWORD, Answer, Bank, Client, fresh_database, wait_until
from tests.proof.conftest import SEED

PASSWORD = "a tall ship and a star to steer by"

# Whose the operations are that Alice may not or cannot ask for: of a whole tag, or of one operation.
ADMINS = {
    "audit",
    "limits",
    "rules",
    "admin",
    "replays",
    "users_list_users",
    "users_delete_user",
    "users_reset_totp",
    "fx_publish_rate",
    "fx_read_position",
}
ADMINS |= {"transactions_approve", "transactions_reject"}
BOBS = {"transactions_capture", "transactions_void", "transactions_rollback"}

MOVED = {"amount": "12.34", "currency": "USD"}


@dataclass
class Cast:
    """The examples' people in a bank: Alice with 1,000 dollars, Bob whom she pays, the administrator; and what they have made."""

    bank: Bank
    nobody: Client
    admin: Client
    bob: Client
    ids: dict[str, str]
    alice: Client = field(init=False)
    dora: Client = field(init=False)

    def filled(self, text: str, **own: str) -> str:
        """The text with the real id in the place of each that the examples have."""
        for name, value in (self.ids | own).items():
            text = text.replace(CAST[name], value)
        return text

    def pay(self, **more: Any) -> dict[str, Any]:
        """A transfer from Alice to Bob, decided."""
        body = {"to_username": "bob", **MOVED, **more}
        return made(self.alice.request("POST", "/api/v1/transactions/transfer", body, {"Prefer": "wait=20"}))

    def replayed(self) -> str:
        """A replay that has a result."""
        replay = made(self.admin.post("/admin/replays", {"until_position": 1}))["id"]
        wait_until(lambda: self.admin.get(f"/admin/replays/{replay}").json["status"] == "finished", "the replay is finished")
        return str(replay)

    def sealed(self) -> str:
        """A transaction that has a receipt."""
        payment = str(self.pay()["id"])
        wait_until(lambda: self.alice.get(f"/transactions/{payment}/receipt").status == 200, "the payment is sealed")
        return payment

    def limited(self) -> str:
        body = {"user_id": self.ids["other_user_id"], "currency": "USD", "kind": "single", "amount": "500.00"}
        return str(made(self.admin.post("/limits", body))["id"])

    def ruled(self, expression: str = "transaction.amount > 5000000") -> str:
        return str(made(self.admin.post("/rules", {"name": "Large", "expression": expression, "effect": "review"}))["id"])

    def scheduled(self) -> str:
        body = {"transfer": {"to_username": "bob", **MOVED}, "run_at": "2099-01-31T08:00:00Z"}
        return str(made(self.alice.post("/schedules", body))["id"])

    def batched(self) -> str:
        item = {"type": "transfer", "to_username": "bob", **MOVED}
        return str(made(self.alice.post("/transactions/batch", {"mode": "atomic", "transactions": [item]}))["id"])

    def logged_in(self) -> str:
        """Another login of Alice's."""
        self.bank.log_in("alice", PASSWORD)
        return str(made(self.alice.get("/auth/logins"))["data"][0]["id"])

    def somebody(self) -> tuple[Client, str]:
        """A customer of this one operation: logged in, and the id."""
        name = f"dora-{secrets.token_hex(4)}"
        user = made(self.nobody.post("/auth/register", {"username": name, "email": f"{name}@example.com", "password": PASSWORD}))
        return self.bank.client(self.bank.log_in(name, PASSWORD)), str(user["id"])

    def enrolled(self, client: Client, confirmed: bool) -> str:
        """Give somebody a second factor, to be confirmed or confirmed; a code that is good next."""
        secret = made(client.post("/auth/totp", {"password": PASSWORD}))["secret"]
        code = pyotp.TOTP(secret).now()
        return str(made(client.post("/auth/totp/confirm", {"code": code}))["recovery_codes"][0]) if confirmed else code

    def subjects(self, operation_id: str, path: str) -> dict[str, str]:
        """What a path is about, made for this one operation: by the names of its parameters."""
        makers: dict[str, Callable[[], str]] = {
            "transaction_id": lambda: self.pay()["id"],
            "schedule_id": self.scheduled,
            "batch_id": self.batched,
            "limit_id": self.limited,
            "rule_id": self.ruled,
            "replay_id": self.replayed,
            "login_id": self.logged_in,
        }
        if operation_id in ("transactions_capture", "transactions_void"):
            makers["transaction_id"] = lambda: self.pay(hold=True)["id"]
        if operation_id in ("transactions_approve", "transactions_reject"):
            makers["transaction_id"] = lambda: self.pay(reference="to be reviewed")["id"]
        if operation_id == "transactions_get_receipt":
            makers["transaction_id"] = self.sealed
        if operation_id == "users_delete_user":
            makers["user_id"] = lambda: self.somebody()[1]
        made_now = {name: make() for name, make in makers.items() if f"{{{name}}}" in path}
        if operation_id in ("auth_begin_totp", "auth_confirm_totp", "auth_disable_totp"):
            self.dora, _ = self.somebody()
            if operation_id != "auth_begin_totp":
                made_now["code"] = self.enrolled(self.dora, operation_id == "auth_disable_totp")
        if operation_id == "privacy_erase_user":
            self.dora, made_now["user_id"] = self.somebody()
        if operation_id == "users_reset_totp":
            client, made_now["user_id"] = self.somebody()
            self.enrolled(client, True)
        return made_now

    def asks(self, operation: dict[str, Any]) -> Client:
        """Who sends the example of an operation."""
        name, names = operation["operationId"], {operation["operationId"], *operation["tags"]}
        if name in ("auth_register", "auth_login"):
            return self.nobody
        if name in ("auth_begin_totp", "auth_confirm_totp", "auth_disable_totp", "privacy_erase_user"):
            return self.dora
        if name in ("auth_refresh", "auth_logout"):
            login = made(self.nobody.post("/auth/login", {"username": "bob", "password": PASSWORD}))
            return self.bank.client(login["refresh_token" if name == "auth_refresh" else "access_token"])
        return self.admin if names & ADMINS else self.bob if names & BOBS else self.alice


def made(answer: Answer) -> Any:
    assert answer.status in (200, 201, 202), answer.body
    return answer.json


@pytest.fixture(scope="module")
def document(app) -> Document:
    return Document(app.test_client().get("/openapi.json").json)


@pytest.fixture(scope="module")
def cast(environ: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory, document: Document) -> Iterator[Cast]:
    directory = tmp_path_factory.mktemp("examples")
    with (
        fresh_database({**environ, "BANK_SEAL_KEY": SEED}, directory) as own,
        Bank(own, directory, web_workers=1, slow_worker=True) as bank,
    ):
        bank.add("follow", "-m", "bank", "follow")
        admin = bank.client(bank.log_in("admin", ADMIN_PASSWORD))
        nobody = bank.client()
        bob = made(nobody.post("/auth/register", {"username": "bob", "email": "bob@example.com", "password": PASSWORD}))
        people = Cast(bank, nobody, admin, bank.client(bank.log_in("bob", PASSWORD)), {"other_user_id": bob["id"]})
        # Alice is who the first example makes.
        [alice] = [sent.answer.json for sent in examples(people, document, {"auth_register"})]
        people.alice = bank.client(bank.log_in("alice", PASSWORD))
        accounts = [made(each.post("/accounts", {"currency": "USD"}))["id"] for each in (people.alice, people.bob)]
        people.ids |= {"user_id": alice["id"], "account_id": accounts[0], "other_account_id": accounts[1]}
        money = {"account_id": accounts[0], "amount": "1000.00", "currency": "USD"}
        made(people.alice.request("POST", "/api/v1/transactions/credit", money, {"Prefer": "wait=20"}))
        made(admin.post("/fx/rates", {"currency": "USD", "rate": "1.25"}))
        people.ruled('transaction.reference == "to be reviewed"')
        yield people


@dataclass(frozen=True)
class Sent:
    """An example that was sent."""

    name: str
    operation: dict[str, Any]
    answer: Answer


def examples(cast: Cast, document: Document, only: set[str] | None = None) -> Iterator[Sent]:
    """Send the examples of each operation: what changes nothing first, then each of its bodies, or else each set of its parameters."""
    for method, path, operation in document.operations():
        name = operation["operationId"]
        if only is not None and name not in only:
            continue
        parameters = [*document.root["paths"][path].get("parameters", []), *operation.get("parameters", [])]
        shown = {each["name"]: each for each in parameters if "example" in {**each.get("schema", {}), **each}}
        queries = {key: {**each["schema"], **each}["example"] for key, each in shown.items() if each["in"] == "query"}
        needed = {key: value for key, value in queries.items() if shown[key]["required"]}
        headers = {key: each["example"] for key, each in shown.items() if each["in"] == "header" and key != "If-Match"}
        own = cast.subjects(name, path)
        client = cast.asks(operation)
        url = path
        for key, each in shown.items():
            if each["in"] == "path":
                url = url.replace(f"{{{key}}}", each["example"])

        def send(query: dict[str, Any], url: str = url, own: dict[str, str] = own, **more: Any) -> Answer:
            asked = cast.filled(f"{url}?{urlencode(query)}" if query else url, **own)
            return client.request(method, asked, **more)  # noqa: B023 - sent at once

        bodies = operation.get("requestBody", {"content": {}})["content"]
        if not bodies:
            for query in [needed, queries] if needed != queries else [needed]:
                yield Sent(f"{name} {query}", operation, send(query, headers=headers))
        for media_type, content in bodies.items():
            text = content["example"] if media_type == "text/csv" else json.dumps(content["example"])
            data = cast.filled(text, **own).encode()
            mode = {"mode": "atomic"} if media_type == "text/csv" else {}
            sent = {"Content-Type": media_type}
            if any(each["name"] == "dry_run" for each in parameters):
                yield Sent(f"{name} dry run {media_type}", operation, send({"dry_run": "true", **mode}, data=data, headers=sent))
            keys = {"Idempotency-Key": f"{media_type}"} if len(bodies) > 1 else {}
            yield Sent(f"{name} {media_type}", operation, send(mode, data=data, headers={**sent, **headers, **keys}))


def test_every_operation_has_a_description_and_examples(document) -> None:
    for method, path, operation in document.operations():
        assert len(operation.get("description", "")) > 20, (method, path)
        assert not operation["summary"].endswith("."), (method, path)
        for media_type, content in operation.get("requestBody", {"content": {}})["content"].items():
            assert content.get("example"), (method, path, media_type)
        for status, answer in operation["responses"].items():
            for media_type, content in document.resolve(answer).get("content", {}).items():
                if "$ref" not in answer and media_type.endswith("json"):
                    assert content.get("example"), (method, path, status, media_type)


def test_an_answers_example_has_the_shape_that_is_documented(document) -> None:
    for method, path, operation in document.operations():
        for status, answer in operation["responses"].items():
            for media_type, content in answer.get("content", {}).items():
                if media_type.endswith("json"):
                    assert document.objections(content["schema"], content["example"]) == [], (method, path, status)
                if media_type == "application/problem+json":
                    assert content["example"]["status"] == int(status), (method, path, status)


def test_every_example_of_a_request_does_what_is_documented(cast, document) -> None:
    wrong, seen = [], {"auth_register"}
    everything = {operation["operationId"] for _, _, operation in document.operations()}
    for sent in examples(cast, document, everything - seen):
        seen.add(sent.operation["operationId"])
        documented = sent.operation["responses"].get(str(sent.answer.status))
        if not 200 <= sent.answer.status < 300 or documented is None:
            wrong.append((sent.name, sent.answer.status, sent.answer.body[:500]))
        elif sent.answer.status != 204:
            media_type = sent.answer.headers.get_content_type()
            schema = documented["content"][media_type]["schema"]
            if media_type == "application/json" and (objections := document.objections(schema, sent.answer.json)):
                wrong.append((sent.name, objections))
    assert wrong == []
    assert seen == everything
