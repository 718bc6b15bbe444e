"""What to do with a message and with an answer: values and an instant in, decisions out (pure)."""
