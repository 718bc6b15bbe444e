"""What should exist, and what its status should say, as pure functions of objects and a given instant."""
