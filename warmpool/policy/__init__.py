"""What floor a pool should hold: pure steps `(state, observation, now) -> (state, proposal)`."""
