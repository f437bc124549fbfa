"""The administrator's password at `bank run`: where it comes from, and where a person finds it."""

from bank.cli.layout import Layout
from bank.cli.migrated import ask
from bank.embedded import secret

USERNAME = "admin"


class Administrator:
    """The password that the migration is to give the administrator, should there be none yet."""

    def __init__(self, layout: Layout) -> None:
        """Take BANK_ADMIN_PASSWORD, or else the file in the data directory, which is made if it is not there."""
        given = layout.given.get("BANK_ADMIN_PASSWORD")
        self._file = layout.admin_password_file
        # Before anybody has it as a password it must be where it can be found again.
        self._is_new = not given and not self._file.exists()
        self._place = "BANK_ADMIN_PASSWORD" if given else str(self._file)
        self.password = given or secret(self._file)

    def place(self, database_url: str) -> str:
        """Where the password lies that logs the administrator in; never the password.

        An administrator who was there before, or has changed the password since, has another one than
        ours: then this says so, and a file written in vain is removed.
        """
        # Loads a dictionary of passwords, which the start need not wait for: by now the other processes load.
        from bank.auth.passwords import verify

        hashed = ask(database_url, "SELECT password_hash FROM users WHERE username = %s", USERNAME)
        if verify(hashed, self.password):
            return self._place
        if self._is_new:
            self._file.unlink()
        return "the one set earlier (neither BANK_ADMIN_PASSWORD nor the data directory has it)"
