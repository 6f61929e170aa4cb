"""Metrics as pure functions of numpy arrays. Each states its range, its direction and where its formula comes from."""
