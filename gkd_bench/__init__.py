"""gkd_bench: Generalizable Knowledge Distillation as a leak-free, distributed source x target benchmark."""

__version__ = "0.1.0"
