"""One reader per domain, in the layout of its official download."""
