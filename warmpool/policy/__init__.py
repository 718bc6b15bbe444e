"""Pure steps `(state, observation, now) -> (state, decision)`."""
