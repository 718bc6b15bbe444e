"""Brokers: what the dispatcher needs of one, how an address becomes one, and a module for each."""
