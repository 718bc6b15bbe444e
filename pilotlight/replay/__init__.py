"""A trace sent to a function URL, live: open-loop, one arm after another, each with its own warm pool."""
