"""Event triggers: messages of a queue become CloudEvents that are posted to a function's URL.

`python -m triggers` runs the dispatcher of one Trigger; `pilotlight up` runs those of all Triggers.
"""
