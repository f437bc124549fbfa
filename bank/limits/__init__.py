"""Limits and rules: what customers may pay, by amount, time and counterparty, and by conditions that admins write."""
