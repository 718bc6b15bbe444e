"""The platform as a whole: configuration, state folder, start and stop."""
