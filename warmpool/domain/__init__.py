"""The values that decisions are made of: pools, schedules, demand, cold starts, cost. Pure."""
