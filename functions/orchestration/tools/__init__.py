"""The tools of an agent: functions behind URLs, and servers of the Model Context Protocol."""
