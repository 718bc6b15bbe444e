"""Running a request through the stages of an agent, plainly or as a durable run."""
