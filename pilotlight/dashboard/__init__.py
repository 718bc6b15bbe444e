"""The dashboard: one page of agents, Services, warm pools, cold starts and cost."""
