"""Exchange: rates, quotes, and what the bank is exposed to by them."""
