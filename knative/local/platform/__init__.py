"""The platform as a whole: configuration, state folder, initial objects, start and stop."""
