"""`python -m bank` is the `bank` command."""

from bank.cli import main

if __name__ == "__main__":
    main(prog_name="bank")
