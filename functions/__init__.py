"""Data plane: the stages of an agent, on one image (`python -m functions STAGE`)."""
