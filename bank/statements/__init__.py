"""Statements of account: what was booked to an account over some days, as CSV, PDF and camt.053."""
