"""Calls from one stage to another: the client with its retries, the replies, the stream through a chain."""
