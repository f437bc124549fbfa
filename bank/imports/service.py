"""`bank import`: find out which import a file is, take in what is missing, prove the totals."""

from pathlib import Path

from sqlalchemy.orm import Session

from bank.audit import service as audit
from bank.db import reader, unit_of_work
from bank.events.types import Origin
from bank.imports import store
from bank.imports.proof import Report, prove
from bank.imports.records import Unusable
from bank.imports.run import Run
from bank.imports.source import Fingerprint, Source, Watch, fingerprint
from bank.imports.trial import Trial, attempt
from bank.users.models import Role
from bank.users.service import create_user
from bank.web.context import new_id

DEFAULT_OWNER = "imported"


def import_file(source: Source, refused_file: Path, watch: Watch) -> Report:
    """Bring the file in, or what is missing of it, and prove the result; refused lines go to `refused_file`.

    Of a file that is in already nothing is written. Raises Unusable for a file that cannot be
    imported as a whole, and Unavailable when the database goes away; a later run then goes on.
    """
    known = _begin(source, watch)
    if known.finished_at is None:
        Run(source, known, watch).finish()
    return prove(source, known, refused_file, watch)


def try_file(source: Source, watch: Watch) -> Trial:
    """Read and check the file as an import would, overdrafts included, and write nothing. Raises Unusable."""
    mark = _fingerprint(source, watch)
    with reader() as session:
        known = store.find(session, mark.content, source.options) or _longest_beginning(session, source, mark, lock=False)
        return attempt(session, source, _owner(session, source), known, watch)


def _begin(source: Source, watch: Watch) -> store.Known:
    """The import of this file; a new one goes on behind the longest file that this one begins with."""
    mark = _fingerprint(source, watch)
    origin = Origin()
    with unit_of_work() as session:
        known = store.find(session, mark.content, source.options, lock=True)
        if known is not None:
            if known.finished_at is None:
                audit.record(session, "import", known.id, "import.resumed", origin, {"lines_done": known.lines_done})
            return known
        owner_id = _owner(session, source)
        if owner_id is None:
            owner_id = create_user(session, DEFAULT_OWNER, f"{DEFAULT_OWNER}@bank.example", None, Role.CUSTOMER, origin).id
        shorter = _longest_beginning(session, source, mark, lock=True)
        import_id = new_id()
        store.create(
            session,
            {
                "id": import_id,
                "content": mark.content,
                "options": source.options,
                "size": mark.size,
                "name": source.path.name,
                "owner_id": owner_id,
                "continues_id": shorter.id if shorter else None,
                "lines_done": shorter.lines_done if shorter else 0,
            },
        )
        known = store.find(session, mark.content, source.options)
        if known is None or known.id != import_id:
            raise Unusable("Another process has just begun to import the same file.")
        audit.record(session, "import", import_id, "import.started", origin, {"content": mark.content.hex(), "owner_id": owner_id})
    return known


def _fingerprint(source: Source, watch: Watch) -> Fingerprint:
    with reader() as session:
        sizes = store.sizes(session, source.options, source.size())
    return fingerprint(source.path, sizes, watch)


def _owner(session: Session, source: Source) -> str | None:
    """The user who owns the accounts; None for the default one, who is made when needed."""
    owner_id = store.user_named(session, source.owner)
    if owner_id is None and source.owner != DEFAULT_OWNER:
        raise Unusable(f"There is no user {source.owner!r} who could own the accounts (--owner).")
    return owner_id


def _longest_beginning(session: Session, source: Source, mark: Fingerprint, *, lock: bool) -> store.Known | None:
    for _, content in sorted(mark.beginnings.items(), reverse=True):
        if known := store.find(session, content, source.options, lock=lock):
            return known
    return None
