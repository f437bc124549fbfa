"""What the bank looked like at any moment: the events folded anew up to there."""
