"""From wished to actual state: Service, Configuration, Route, Revision, PodAutoscaler, pods."""
