"""Faults put on a running bank while clients move money, one after the other: `make faults`. docs/faults.md says how to read it."""
