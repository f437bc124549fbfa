"""Who gets what, for every route: the table, and what is sent for each of its lines."""

from dataclasses import dataclass
from typing import Any

# The console has a table of its own (tests/console/test_pages.py). These need no login, and nothing of them is anybody's: the page of the
# docs with its files, the document itself, the health of the process and the metrics, which a proxy keeps inside.
EXCEPTIONS = frozenset(
    ("docs.page", "docs.file", "docs.start", "api-docs.openapi_json", "health.live", "health.ready", "prometheus_metrics")
)

# `owner` is a customer whose things the path and the body name; `other` is a customer who has nothing to do with them. 404 is told in the
# bytes of what is not there.
TABLE = """
method path                                                        nobody owner other teller auditor admin
POST   /auth/register                                              201    201   201   201    201     201
POST   /auth/login                                                 200    200   200   200    200     200
POST   /auth/refresh                                               401    401   401   401    401     401
POST   /auth/logout                                                401    204   204   204    204     204
GET    /auth/me                                                    401    200   200   200    200     200

GET    /auth/logins                                                401    200   200   200    200     200
DELETE /auth/logins/{login_id}                                     401    204   404   404    404     404
GET    /auth/totp                                                  401    200   200   200    200     200
POST   /auth/totp                                                  401    201   201   201    201     201
POST   /auth/totp/confirm                                          401    422   422   422    422     422
POST   /auth/totp/disable                                          401    409   409   409    409     409
DELETE /users/{user_id}/totp                                       401    403   403   403    403     404

GET    /users                                                      401    403   403   200    200     200
GET    /users/{user_id}                                            401    200   404   200    200     200
PUT    /users/{user_id}                                            401    200   404   403    403     200
DELETE /users/{user_id}                                            401    409   404   403    403     409
GET    /users/{user_id}/export                                     401    200   404   403    403     200
POST   /users/{user_id}/erasure                                    401    409   404   403    403     409

POST   /accounts                                                   401    201   404   201    403     201
GET    /accounts                                                   401    200   200   200    200     200
GET    /accounts?user_id={user_id}                                 401    200   403   200    200     200
GET    /accounts/{account_id}                                      401    200   404   200    200     200
PATCH  /accounts/{account_id}                                      401    200   404   200    403     200
GET    /accounts/{account_id}/entries                              401    200   404   200    200     200
GET    /accounts/{account_id}/statement?from=2026-01-01&to=2026-02-01
                                                                   401    200   404   200    200     200

POST   /transactions/credit                                        401    202   404   202    403     202
POST   /transactions/debit                                         401    202   404   202    403     202
POST   /transactions/transfer                                      401    202   404   404    403     202
POST   /transactions/batch                                         401    202   422   422    403     202
GET    /transactions/batch/{batch_id}                              401    200   404   200    200     200
GET    /transactions/history                                       401    200   200   200    200     200
GET    /transactions/history?account_id={account_id}               401    200   404   200    200     200
GET    /transactions/history?user_id={user_id}                     401    200   403   200    200     200
GET    /transactions/{transaction_id}                              401    200   404   200    200     200
GET    /transactions/{transaction_id}/receipt                      401    409   404   409    409     409
GET    /transactions/{payment_id}/explanation                      401    200   404   200    200     200
POST   /transactions/{transaction_id}/rollback                     401    202   404   202    403     202
POST   /transactions/{payment_id}/rollback                         401    403   404   202    403     202
POST   /transactions/{hold_id}/capture                             401    202   404   202    403     202
POST   /transactions/{hold_id}/void                                401    202   404   202    403     202
POST   /transactions/{review_id}/approve                           401    403   403   403    403     200
POST   /transactions/{review_id}/reject                            401    403   403   403    403     200

POST   /schedules                                                  401    201   404   404    403     201
GET    /schedules                                                  401    200   200   200    200     200
GET    /schedules?user_id={user_id}                                401    200   403   200    200     200
GET    /schedules/{schedule_id}                                    401    200   404   200    200     200
GET    /schedules/{schedule_id}/runs                               401    200   404   200    200     200
PATCH  /schedules/{schedule_id}                                    401    200   404   404    403     200
DELETE /schedules/{schedule_id}                                    401    204   404   404    403     204

POST   /limits                                                     401    403   403   403    403     201
GET    /limits                                                     401    403   403   403    200     200
GET    /limits/{limit_id}                                          401    403   403   403    200     200
PATCH  /limits/{limit_id}                                          401    403   403   403    403     200
DELETE /limits/{limit_id}                                          401    403   403   403    403     204
POST   /rules                                                      401    403   403   403    403     201
GET    /rules                                                      401    403   403   403    200     200
GET    /rules/{rule_id}                                            401    403   403   403    200     200
PATCH  /rules/{rule_id}                                            401    403   403   403    403     200
DELETE /rules/{rule_id}                                            401    403   403   403    403     204

GET    /fx/rates                                                   401    200   200   200    200     200
POST   /fx/rates                                                   401    403   403   403    403     201
POST   /fx/quotes                                                  401    201   201   201    403     201
GET    /fx/position                                                401    403   403   200    200     200

GET    /balances/current                                           401    200   200   200    200     200
GET    /balances/current?account_id={account_id}                   401    200   404   200    200     200
GET    /balances/current?account_id={account_id}&currency=USD      401    200   404   200    200     200
GET    /balances/current?user_id={user_id}                         401    200   403   200    200     200
GET    /balances/historical?account_id={account_id}                401    200   404   200    200     200
GET    /balances/at-time?account_id={account_id}&at=2026-01-31T12:00:00Z
                                                                   401    200   404   200    200     200

GET    /events                                                     401    403   403   403    200     200
GET    /events/head                                                401    403   403   403    200     200
GET    /audit-logs                                                 401    403   403   403    200     200
GET    /admin/stats                                                401    403   403   403    200     200
POST   /admin/replays                                              401    403   403   403    202     202
GET    /admin/replays/{replay_id}                                  401    403   403   403    200     200
GET    /admin/replays/{replay_id}/accounts                         401    403   403   403    200     200
"""

# The same where the owner is a teller: api.md lets tellers read customers, and their colleagues are none.
COLLEAGUES = """
method path                                                        owner teller auditor admin
GET    /users/{user_id}                                            200   404    200     200
PUT    /users/{user_id}                                            200   404    403     200
DELETE /users/{user_id}                                            409   404    403     409
GET    /users/{user_id}/export                                     200   404    403     200
POST   /users/{user_id}/erasure                                    409   404    403     409
POST   /accounts                                                   201   404    403     201
GET    /accounts/{account_id}                                      200   404    200     200
PATCH  /accounts/{account_id}                                      403   404    403     200
GET    /accounts/{account_id}/entries                              200   404    200     200
GET    /accounts/{account_id}/statement?from=2026-01-01&to=2026-02-01
                                                                   200   404    200     200
POST   /transactions/credit                                        403   404    403     202
POST   /transactions/debit                                         403   404    403     202
POST   /transactions/transfer                                      202   404    403     202
GET    /transactions/batch/{batch_id}                              200   404    200     200
GET    /transactions/history?account_id={account_id}               200   404    200     200
GET    /transactions/{transaction_id}                              200   404    200     200
GET    /transactions/{transaction_id}/receipt                      409   404    409     409
GET    /transactions/{payment_id}/explanation                      200   404    200     200
POST   /transactions/{transaction_id}/rollback                     202   404    403     202
POST   /transactions/{hold_id}/capture                             202   404    403     202
POST   /transactions/{hold_id}/void                                202   404    403     202
POST   /schedules                                                  201   404    403     201
GET    /schedules/{schedule_id}                                    200   404    200     200
GET    /schedules/{schedule_id}/runs                               200   404    200     200
PATCH  /schedules/{schedule_id}                                    200   404    403     200
DELETE /schedules/{schedule_id}                                    204   404    403     204
GET    /balances/current?account_id={account_id}                   200   404    200     200
GET    /balances/current?account_id={account_id}&currency=USD      200   404    200     200
GET    /balances/historical?account_id={account_id}                200   404    200     200
GET    /balances/at-time?account_id={account_id}&at=2026-01-31T12:00:00Z
                                                                   200   404    200     200
"""

_MONEY = {"amount": "0.01", "currency": "USD"}
_TRANSFER = {"from_account_id": "{account_id}", "to_account_id": "{payer_account_id}", **_MONEY}

# What is sent where a body is wanted, by method and path.
BODIES: dict[str, Any] = {
    "POST /auth/register": {"username": "{new_name}", "email": "{new_name}@example.com", "password": "{password}"},
    "POST /auth/login": {"username": "{username}", "password": "{password}"},
    "POST /auth/totp": {"password": "{password}"},
    "POST /auth/totp/confirm": {"code": "000000"},
    "POST /auth/totp/disable": {"password": "{password}", "code": "000000"},
    "POST /users/{user_id}/erasure": {"current_password": "{password}"},
    "PUT /users/{user_id}": {"username": "{new_name}"},
    "POST /accounts": {"currency": "CHF", "user_id": "{user_id}"},
    "PATCH /accounts/{account_id}": {"name": "Household"},
    "POST /transactions/credit": {"account_id": "{account_id}", **_MONEY},
    "POST /transactions/debit": {"account_id": "{account_id}", **_MONEY},
    "POST /transactions/transfer": _TRANSFER,
    "POST /transactions/batch": {"mode": "atomic", "transactions": [{"type": "transfer", **_TRANSFER}]},
    "POST /transactions/{transaction_id}/rollback": {"amount": "0.01", "reason": "Returned goods"},
    "POST /transactions/{payment_id}/rollback": {"amount": "0.01", "reason": "Returned goods"},
    "POST /transactions/{hold_id}/capture": {"amount": "0.01"},
    "POST /transactions/{hold_id}/void": {},
    "POST /transactions/{review_id}/approve": {},
    "POST /transactions/{review_id}/reject": {},
    "POST /schedules": {"transfer": _TRANSFER, "run_at": "2099-01-31T08:00:00Z"},
    "PATCH /schedules/{schedule_id}": {"status": "paused"},
    "POST /limits": {"user_id": "{user_id}", "currency": "USD", "kind": "sum", "amount": "1000.00", "window": "day"},
    "PATCH /limits/{limit_id}": {"amount": "2000.00"},
    "POST /rules": {"name": "Off", "expression": "transaction.amount > 1", "effect": "deny", "enabled": False},
    "PATCH /rules/{rule_id}": {"name": "Of one, still"},
    "POST /fx/rates": {"currency": "USD", "rate": "1.25"},
    "POST /fx/quotes": {"amount": "1.00", "currency": "USD", "to_currency": "EUR"},
    "POST /admin/replays": {"until_position": 0},
}


@dataclass(frozen=True)
class Line:
    """One line of a table: what each column is answered."""

    method: str
    path: str
    expected: dict[str, int]

    @property
    def body(self) -> Any:
        return BODIES.get(f"{self.method} {self.path}")

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def lines(table: str) -> list[Line]:
    """The lines of a table. One that is too long goes on in the next."""
    words = table.split()
    head = words[: words.index("admin") + 1]
    rows = [words[start : start + len(head)] for start in range(len(head), len(words), len(head))]
    return [Line(row[0], row[1], dict(zip(head[2:], map(int, row[2:]), strict=True))) for row in rows]
