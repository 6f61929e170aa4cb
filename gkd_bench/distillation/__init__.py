"""One distillation method, one small module; the parts of GKD (ACT, DCGD, DICD) beside the baselines."""
