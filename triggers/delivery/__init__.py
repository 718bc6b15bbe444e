"""Effects of a dispatcher, one concern a module: loans, limits, requests, waking, health, dead letters."""
