"""Control plane: warm pools, their policies, and the controller that acts on them."""
