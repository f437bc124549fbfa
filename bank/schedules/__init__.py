"""Standing orders: transfers that are made again and again, or once at a time to come."""
