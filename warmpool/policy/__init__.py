"""Pure steps `(memory, observation, now) -> (memory, decision)`."""
