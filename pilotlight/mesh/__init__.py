"""What an agent needs within a service mesh: identities, mutual TLS, and who may call whom (pure)."""
