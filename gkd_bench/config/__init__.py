"""The sweep file: its shape, how it is read and completed, and what is said about its mistakes."""
