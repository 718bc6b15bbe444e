"""Fill the weights cache of an agent before its first replica starts.

jobs           the Jobs that do so on a cluster (pure)
cron_jobs      the same ahead of a warm pool's windows (pure)
fill_state     how far one of them is, from its objects and its log (pure)
on_a_cluster   makes them and follows them
on_this_machine   does the same for the local platform, with a process
"""
