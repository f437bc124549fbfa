"""Every error that a client can be told of, as a class that carries its status and its stable code.

A handler raises one of these and never picks a status itself; the one place that turns them into
`application/problem+json` (RFC 9457) is `bank.web.problems`.
"""

from collections.abc import Mapping
from typing import Any, ClassVar


class BankError(Exception):
    """An error the client caused or must know of.

    `detail` is a sentence for a person; `errors` is a list of `{"pointer", "message"}` with JSON
    pointers (RFC 6901) into the request; `headers` go out with the answer; `members` are extra
    members of the problem document.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "Internal error"

    def __init__(
        self,
        detail: str | None = None,
        *,
        errors: list[dict[str, str]] | None = None,
        headers: Mapping[str, str] | None = None,
        members: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self.errors = errors
        self.headers = dict(headers or {})
        self.members = dict(members or {})


class MalformedRequest(BankError):
    """The body is not JSON, or is JSON that two readers could understand differently."""

    status, code, title = 400, "malformed_request", "The request could not be read"


class Unauthenticated(BankError):
    """Nobody is logged in, or the token is not good (any more)."""

    status, code, title = 401, "unauthenticated", "Authentication is required"

    def __init__(self, detail: str | None = None) -> None:
        # RFC 9110, 15.5.2: a 401 must say how to authenticate.
        super().__init__(detail, headers={"WWW-Authenticate": "Bearer"})


class InvalidCredentials(Unauthenticated):
    """The name or the password is wrong; which of them is not said."""

    code, title = "invalid_credentials", "The username or the password is wrong"


class SecondFactorRequired(InvalidCredentials):
    """The password is right, and this user's logins need a code as well."""

    code, title = "second_factor_required", "A code of the second factor is needed"


class Forbidden(BankError):
    """The caller is known, and may not do this."""

    status, code, title = 403, "forbidden", "You are not allowed to do this"


class EnrolmentRequired(Forbidden):
    """An administrator must have a second factor here, and has none yet."""

    code, title = "enrolment_required", "Administrators need a second factor first"


class NotFound(BankError):
    """Not there, or not yours: the two are one answer, so that ids cannot be probed."""

    status, code, title = 404, "not_found", "There is no such thing here"


class NotAcceptable(BankError):
    """The answer comes in none of the media types that the client takes."""

    status, code, title = 406, "not_acceptable", "There is no answer of an accepted media type"


class Conflict(BankError):
    """The request is fine; the present state of the thing is not."""

    status, code, title = 409, "conflict", "The present state does not allow this"


class AlreadyTaken(Conflict):
    """Another user has this username or email."""

    code, title = "already_taken", "The username or the email is already taken"


class BalanceNotZero(Conflict):
    """Money is still there, owed or on its way."""

    code, title = "balance_not_zero", "An account still holds money or owes it"


class AccountClosed(Conflict):
    """A closed account stays closed."""

    code, title = "account_closed", "The account is closed"


class BalanceBelowLimit(Conflict):
    """The account uses more overdraft than the new limit would allow."""

    code, title = "balance_below_limit", "The account uses more than the new overdraft limit"


class NotReversible(Conflict):
    """Only a completed credit, debit or transfer can be rolled back."""

    code, title = "not_reversible", "This transaction cannot be rolled back"


class NotHeld(Conflict):
    """Only a hold can be captured or voided."""

    code, title = "not_held", "This transaction is not held"


class TooManyReplays(Conflict):
    """As many replays as may be are at work or wait."""

    code, title = "too_many_replays", "As many replays as may be are open"


class ReplayNotFinished(Conflict):
    """There is a result once the replay has come to its end."""

    code, title = "replay_not_finished", "The replay has no result"


class ScheduleOver(Conflict):
    """It is deleted, or had its last run."""

    code, title = "schedule_over", "The schedule is over"


class QuoteUsed(Conflict):
    """A quote is good for one transfer."""

    code, title = "quote_used", "The quote has been used"


class TooManyLimits(Conflict):
    """As many limits as may be are set for a role, a user or an account."""

    code, title = "too_many_limits", "As many limits as may be are set"


class TooManyRules(Conflict):
    """As many rules as may be are set."""

    code, title = "too_many_rules", "As many rules as may be are set"


class NotUnderReview(Conflict):
    """Only what a rule had held, and nobody has decided yet, can be approved or rejected."""

    code, title = "not_under_review", "No review of this transaction is open"


class NotApprovable(Conflict):
    """The ledger would refuse it now. It stays under review."""

    code, title = "not_approvable", "The transaction cannot be approved now"


class SamePerson(Forbidden):
    """Who asked for it, or is a party to it, must not approve it."""

    code, title = "same_person", "Somebody else has to decide on this"


class IdempotencyInProgress(Conflict):
    """The first request with this key has not been answered yet."""

    code, title = "idempotency_in_progress", "The first request with this key is still running"


class PreconditionFailed(BankError):
    """`If-Match` names an older version of the resource."""

    status, code, title = 412, "precondition_failed", "The resource has changed since you read it"


class Unprocessable(BankError):
    """The request is well formed and its content is wrong."""

    status, code, title = 422, "validation_failed", "The request is not valid"

    @classmethod
    def at(cls, pointer: str, message: str) -> "Unprocessable":
        """The error with one place named: `pointer` is a JSON pointer, `message` a sentence."""
        return cls(errors=[{"pointer": pointer, "message": message}])


class IdempotencyKeyReused(Unprocessable):
    """The key has been used with another body."""

    code, title = "idempotency_key_reused", "This key was used before with another request"


class CurrencyMismatch(Unprocessable):
    """Money of one currency cannot open an account in another."""

    code, title = "currency_mismatch", "The account holds another currency"


class RateUnavailable(Unprocessable):
    """Nobody has published a rate, or none that is new enough."""

    code, title = "rate_unavailable", "There is no rate that may be used"


class QuoteExpired(Unprocessable):
    """The time is over for which a quote was firm."""

    code, title = "quote_expired", "The quote has expired"


class LedgerRefused(Unprocessable):
    """The ledger decided against a transaction. `code` is the failure code, e.g. `insufficient_funds`.

    `members` are the failed `transaction`, and the `request_id` by which it was asked for: that of
    the first request, also when its answer is given again.
    """

    title = "The ledger refused the transaction"

    def __init__(self, members: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        self.failure_code: str = members["transaction"]["failure_code"]
        super().__init__(f"The transaction failed: {self.failure_code}.", headers=headers, members=members)


class TooManyAttempts(BankError):
    """Too many wrong passwords; `retry_after` seconds from now one more may be tried."""

    status, code, title = 429, "too_many_requests", "Too many attempts"

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"Try again in {retry_after} s.", headers={"Retry-After": str(retry_after)})


class Unavailable(BankError):
    """A part we need is out of reach; the same request may be tried again."""

    status, code, title = 503, "unavailable", "The service is unavailable for a moment"

    def __init__(self, detail: str | None = None, *, retry_after: int = 1, sqlstate: str | None = None, part: str | None = None) -> None:
        """`part` names what does not answer, whatever it is asked; None where only this was not to be had."""
        super().__init__(detail, headers={"Retry-After": str(retry_after)})
        self.sqlstate = sqlstate
        self.part = part


class RatesTooOld(Unavailable):
    """There are rates, and all of them are older than may be used: who publishes them has been silent for days."""

    code, title = "rates_too_old", "No rate is new enough"
