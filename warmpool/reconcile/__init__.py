"""From a snapshot of one pool's objects and its state to writes, status and the next state.

Pure: no clock, no I/O, no event loop. Every function is called with the instant that it decides for.
"""
