"""Values only: pools, demand, decisions, cold starts, cost."""
