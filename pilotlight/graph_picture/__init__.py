"""Pictures of an agent's graph: Mermaid text, SVG and PNG."""
