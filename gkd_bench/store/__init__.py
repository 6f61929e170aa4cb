"""Content keys, records and artefacts. Imports nothing of the package but its errors, and torch only where tensors are read."""
