"""Making, reading, changing and deleting users."""

import re
import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from flask import current_app
from psycopg2.errors import UniqueViolation
from sqlalchemy import func, or_, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from bank.accounts import service as accounts
from bank.audit import service as audit
from bank.auth import passwords, throttle
from bank.auth import service as auth
from bank.auth.guard import Principal
from bank.db import reader, unit_of_work
from bank.errors import AlreadyTaken, Conflict, Forbidden, NotFound, Unprocessable
from bank.events import store as events
from bank.events.types import Origin, UserChanged, UserRegistered
from bank.schedules import service as schedules
from bank.schedules import store as schedules_store
from bank.users.models import Role, User, UserStatus
from bank.web.conditional import check_if_match
from bank.web.context import new_id
from bank.web.fields import timestamp


def present_user(user: User) -> dict[str, Any]:
    """The user as clients see it; never the hash."""
    return {
        "id": user.id,
        "username": user.username,
        "email": user.email,
        "role": user.role,
        "status": user.status,
        "created_at": timestamp(user.created_at),
        "updated_at": timestamp(user.updated_at),
    }


def etag(user: User) -> str:
    """What changes with every change of the user."""
    return str(user.version)


def register(username: str, email: str, password: str, role: Role, origin: Origin) -> User:
    """A new user with a password, in a unit of work of its own.

    Raises Unprocessable for a password that is not acceptable, AlreadyTaken for a name that is not
    free. The latter tells that the name exists, against OWASP ASVS 5.0, 6.3.8: usernames are no
    secret here, since money is sent to them, and whoever asks for a taken one must hear it. Which
    of name and email is taken is not said, and it takes as long as a success, hash included.
    """
    _check_password(password, username, email)
    password_hash = passwords.hash(password)
    with unit_of_work() as session:
        return create_user(session, username, email, password_hash, role, origin)


def create_user(session: Session, username: str, email: str, password_hash: str | None, role: Role, origin: Origin) -> User:
    """A new user, with event and audit row, in the caller's unit of work.

    `password_hash` comes from `passwords.hash`, called before the unit of work since it is slow;
    None makes a user who cannot log in. The form of name and email is the caller's to check. Raises
    AlreadyTaken, after which the unit of work can go on.
    """
    if password_hash is not None and not password_hash.startswith("$argon2id$"):
        raise ValueError("This is no argon2id hash; a password must never be stored itself.")
    values = {"id": new_id(), "username": username, "email": email, "password_hash": password_hash, "role": role}
    statement = insert(User).values(**values, status=UserStatus.ACTIVE, version=1).on_conflict_do_nothing().returning(User)
    user = session.scalars(statement).one_or_none()
    if user is None:
        raise AlreadyTaken
    event = UserRegistered(username=username, email=email, role=role, status=UserStatus.ACTIVE, salt=_salt())
    events.append(session, user.id, user.version, event, origin)
    audit.record(session, "user", user.id, "user.registered", origin, {"role": role})
    return user


def shown(user_ids: Sequence[str], bind: str) -> dict[str, Any]:
    """For the cache: of each of these users that there is, `body` as it is shown and its `etag`, read from `bind`."""
    with reader(bind) as session:
        users = session.scalars(select(User).where(User.id.in_(list(user_ids)))).all()
    return {user.id: {"body": present_user(user), "etag": etag(user)} for user in users}


def get(who: Principal, user_id: str) -> User:
    """The user. Raises NotFound when there is none or it is not for `who` to read."""
    with reader() as session:
        user = session.get(User, user_id)
    if user is None or not may_read(who, user.id, user.role):
        raise NotFound
    return user


def may_read(who: Principal, user_id: str, role: str) -> bool:
    """Whether the user, who has this role, is for `who` to read."""
    return who.id == user_id or who.may_read_all or (who.role == Role.TELLER and role == Role.CUSTOMER)


def search(who: Principal, query: dict[str, Any], before: str | None) -> list[User]:
    """Users that match the filters `role`, `status` and `q`, newest first, one more than `limit`.

    `before` is the id of the last one of the page before. A teller finds customers only.
    """
    statement = select(User).order_by(User.id.desc()).limit(query["limit"] + 1)
    if who.role == Role.TELLER:
        statement = statement.where(User.role == Role.CUSTOMER)
    if "role" in query:
        statement = statement.where(User.role == query["role"])
    if "status" in query:
        statement = statement.where(User.status == query["status"])
    if "q" in query:
        # A beginning and not a middle: that is what an index finds.
        pattern = re.sub(r"([\\%_])", r"\\\1", query["q"].lower()) + "%"
        statement = statement.where(or_(func.lower(User.username).like(pattern), func.lower(User.email).like(pattern)))
    if before is not None:
        statement = statement.where(User.id < before)
    with reader() as session:
        return list(session.scalars(statement))


def change(who: Principal, user_id: str, changes: dict[str, Any], origin: Origin) -> User:
    """Change what `changes` (a loaded ChangeUser) names, if the request's If-Match allows it.

    Users change their own name, email and, giving the current one, password; admins change
    anything of anybody. A new password and a freeze end every login of the user, the caller's own
    included: whoever copied its token is out as well.

    Raises NotFound, Forbidden, Unprocessable (password), TooManyAttempts, PreconditionFailed,
    AlreadyTaken, and Conflict for a deleted user or the last active admin.
    """
    known = to_change(who, user_id)
    if who.role != Role.ADMIN and changes.keys() & {"role", "status"}:
        raise Forbidden("Only an admin may change a role or a status.")
    # Counted for the user over all addresses, and apart from their logins.
    guesses = throttle.subjects(user_id, None, known=True)
    password_hash = None
    if "password" in changes:
        if who.id == user_id:
            _confirm(known, changes.get("current_password"), guesses)
        _check_password(changes["password"], changes.get("username", known.username), changes.get("email", known.email))
        password_hash = passwords.hash(changes["password"])

    with unit_of_work() as session:
        user = _locked(session, user_id)
        check_if_match(etag(user))
        if user.status == UserStatus.DELETED:
            raise Conflict("A deleted user stays deleted.")
        if password_hash:
            if user.password_hash != known.password_hash:
                raise Conflict("The password has just been changed by another request.")
            throttle.settle(session, guesses, good=True)
            user.password_hash = password_hash
        was = _state(user)
        now = replace(was, **{key: changes[key] for key in changes.keys() & {"username", "email", "role", "status"}})
        now = replace(now, password=password_hash is not None)
        if now != was:
            _write(session, user, was, now, origin, "user.changed")
            if now.status == UserStatus.FROZEN and was.status != UserStatus.FROZEN:
                auth.end_all_of(session, user_id, "user_frozen")
            elif now.password:
                auth.end_all_of(session, user_id, "password_changed")
    return user


def delete(who: Principal, user_id: str, origin: Origin) -> None:
    """Close the user's accounts, delete their schedules and let them never log in again; what happened stays readable.

    Deleting a deleted user changes nothing. Raises NotFound, Forbidden, PreconditionFailed,
    BalanceNotZero while an account holds money, owes it or waits for some, and Conflict for the
    last active admin, and for who deletes themselves while an account of theirs is frozen.
    """
    to_change(who, user_id)
    with unit_of_work() as session:
        user = locked_whole(session, user_id)
        check_if_match(etag(user))
        close(session, user, origin)


def locked_whole(session: Session, user_id: str) -> User:
    """The user's row, locked so that whoever just submits something for them is finished first, or finds them changed; and their
    schedules before it."""
    schedules_store.lock_all_of(session, user_id)
    return _locked(session, user_id, whole=True)


def close(session: Session, user: User, origin: Origin) -> None:
    """Delete a user whose whole row is locked, in the caller's unit of work, if they are not deleted yet. Raises as `delete` does."""
    if user.status == UserStatus.DELETED:
        return
    if origin.actor_id == user.id and accounts.has_frozen(session, user.id):
        raise Conflict("An account is frozen; an admin has to look at it first.")
    # Whatever was submitted is found by the check for pending ones.
    accounts.close_all_of(session, user.id, origin)
    schedules.delete_all_of(session, user.id, origin)
    auth.end_all_of(session, user.id, "user_deleted")
    was = _state(user)
    _write(session, user, was, replace(was, status=UserStatus.DELETED), origin, "user.deleted")


def erased_names(user_id: str) -> dict[str, str]:
    """What a user is called who was erased. Nobody can register either, so that nobody is in the way."""
    return {"username": f"_erased-{user_id}", "email": f"{user_id}@erased"}


def confirm(user: User, password: str) -> None:
    """Make sure that the user asks for this themselves. Raises Unprocessable and TooManyAttempts, as for a change of the password."""
    _confirm(user, password, throttle.subjects(user.id, None, known=True))


def to_change(who: Principal, user_id: str) -> User:
    """The user, for who may change them: themselves and admins. Raises NotFound and Forbidden."""
    user = get(who, user_id)
    if who.id != user_id and who.role != Role.ADMIN:
        raise Forbidden
    return user


def _check_password(password: str, username: str, email: str) -> None:
    least = current_app.config["BANK"].password_min_length
    passwords.check_acceptable(password, min_length=least, personal=[username, email])


def _confirm(user: User, password: str | None, guesses: list[throttle.Subject]) -> None:
    if password is None:
        raise Unprocessable.at("/current_password", "Is required.")
    auth.confirm_password(user.password_hash, password, guesses, "/current_password")


def _salt() -> str:
    return secrets.token_hex(16)


def _locked(session: Session, user_id: str, *, whole: bool = False) -> User:
    # Without `whole`, rows that refer to the user (a new account, a transaction) need not wait.
    return session.scalars(select(User).where(User.id == user_id).with_for_update(key_share=not whole)).one()


def _state(user: User) -> UserChanged:
    return UserChanged(username=user.username, email=user.email, role=user.role, status=user.status, password=False, salt="")


def _write(session: Session, user: User, was: UserChanged, now: UserChanged, origin: Origin, action: str) -> None:
    user.username, user.email, user.role, user.status = now.username, now.email, now.role, now.status
    user.version += 1
    user.updated_at = func.now()
    try:
        session.flush()
    except IntegrityError as error:
        if isinstance(error.orig, UniqueViolation):
            raise AlreadyTaken from error
        raise
    session.refresh(user)
    events.append(session, user.id, user.version, replace(now, salt=_salt()), origin)
    # Which of name and email changed, and not to what: the audit log holds no more of a person than ids.
    details = {key: getattr(now, key) for key in ("role", "status") if getattr(now, key) != getattr(was, key)}
    changed = [key for key in ("username", "email", "password") if getattr(now, key) != getattr(was, key)]
    audit.record(session, "user", user.id, action, origin, {**details, **({"changed": changed} if changed else {})})
    if (was.role, was.status) == (Role.ADMIN, UserStatus.ACTIVE) and (now.role, now.status) != (was.role, was.status):
        _check_admin_left(session)


# Any number; it is this lock's name.
_ADMINS = 0x61646D696E


def _check_admin_left(session: Session) -> None:
    # Two admins who demote each other change different rows; without this lock each would see the
    # other one still there. It comes last, so that who holds it waits for nothing.
    session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADMINS})
    left = text("SELECT EXISTS (SELECT FROM users WHERE role = 'admin' AND status = 'active')")
    if not session.execute(left).scalar_one():
        raise Conflict("This is the last active admin.")
