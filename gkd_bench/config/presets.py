"""Named sets of defaults, merged *under* the sweep file: what the file says always wins."""

from __future__ import annotations

from typing import Any

_SUPERVISED: dict[str, Any] = {
    "epochs": 250,
    "batch": 32,
    "optimiser": {"name": "adam", "lr": 3e-3, "weight_decay": 2e-4, "schedule": "step"},
    "dice_weight": 0.0,
}

PRESETS: dict[str, dict[str, Any]] = {
    # What our own measurements suggest: the defaults of the schema.
    "findings": {},
    # The reading closest to the authors' public code; where that is silent, a reconstruction from the paper's figures.
    "paper_like": {
        "data": {"tile": 128, "prepare": {"channel": "green", "clahe": {"clip": 2.0, "grid": 8}, "intensity": "unit"}},
        "augment": {"flips": True, "rotations": False, "photometric": "none"},
        "networks": {
            "teacher": {"name": "fanet", "width": 1.0},
            "student": {"name": "mobile_unet", "width": 1.0},
            "header": {"kind": "shared_mlp", "dim": 512, "hidden": 64, "mixing": "when_needed"},
        },
        "stages": {
            "teacher": _SUPERVISED,
            "baseline": _SUPERVISED,
            "semantic": {"autoencoder": {"epochs": 15, "batch": 32}, "vector": {"epochs": 20, "batch": 32}},
            "alignment": {
                "epochs": 50,
                "batch": 32,
                "optimiser": {"name": "adam", "lr": 1e-3, "weight_decay": 1e-4, "schedule": "cosine"},
                "weights": {"align": 1.0, "rec": 1.0, "con": 1.0, "sem": 0.5, "view": 0.1},
                "patience": 0,
            },
            "distill": {
                **_SUPERVISED,
                # 3e-3 with Adam would undo the warm start; a step schedule keeps its ratios.
                "optimiser": {**_SUPERVISED["optimiser"], "lr": 3e-4},
                "student_init": "baseline",
                "warmup_epochs": 5,
                "balance": "none",
            },
        },
        "methods": {
            "kd": {"weight": 1.0, "temperature": 1.0},
            "gkd": {
                "intra": 1.0,
                "inter": 1.0,
                "cross": 1.0,
                "views": ["hflip", "vflip", "photometric", "noise_blur"],
                "graph_loss": "mse",
                "inter_scope": "batch",
                "standardise": True,
                "divergence": "kl",
                "temperature": 1.0,
                "teacher_skip_drop": 0.0,
                "view_statistics": "updated",
            },
        },
    },
}
