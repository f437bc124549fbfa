"""What keeps the bank up when a part of it is not: breakers, replicas, caches."""
