"""Durable runs: requests whose steps are recorded, so that another replica can go on with them."""
