"""The benchmark: `make bench`. It measures the machine it runs on and is no test."""
