"""Text transformations that stages apply. Pure, whole or piece by piece."""
