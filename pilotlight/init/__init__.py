"""`pilotlight init`: a folder with an agent that runs at once, from a template of this package."""
