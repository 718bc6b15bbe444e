"""The Trigger's spec as values (pure)."""
