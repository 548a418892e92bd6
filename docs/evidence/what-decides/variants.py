"""Writes the tables of the study: every variant of BTD and TRACT, one change at a time.

python docs/evidence/what-decides/variants.py
"""

from __future__ import annotations

import json
from pathlib import Path

HERE = Path(__file__).parent
SEEDS = "200-202"  # used by no other table
BTD_LR = 1e-4  # of the digits-rates grid; TRACT's is its default
BINARY = [1024, 512, 256, 128, 64, 32, 16, 8, 4, 2, 1]

# (row, label, settings): the row's budget is 192K unless it says another
VARIANTS = [
    ("btd", "BTD", {}),
    ("btd-constant", "constant rate", {"lr_schedule": "constant"}),
    ("btd-continue", "no restart of Adam", {"phase_start": "continue"}),
    ("btd-uniform", "uniform weight", {"loss_weight": "uniform"}),
    ("btd-clip", "clipped targets", {"clip_target": True}),
    ("btd-inverse", "inverse as last target", {"final_target": "inverse"}),
    ("tract", "TRACT", {}),
    ("tract-linear", "rate falls in each phase", {"lr_schedule": "linear"}),
    ("tract-restart", "restarts of Adam and self-teacher", {"phase_start": "from_teacher"}),
    ("tract-ema-reset", "restarts of the average", {"ema_reset": "phase"}),
    ("tract-uniform", "uniform weight", {"loss_weight": "uniform"}),
    ("tract-no-clip", "unclipped targets", {"clip_target": False}),
    ("tract-share-0", "share 0", {"method": "tract_share", "share": 0.0}),
    ("tract-share-0.25", "share 0.25", {"method": "tract_share", "share": 0.25}),
    ("tract-share-0.5", "share 0.5", {"method": "tract_share", "share": 0.5}),
    ("tract-share-0.75", "share 0.75", {"method": "tract_share", "share": 0.75}),
    ("tract-share-0.9", "share 0.9", {"method": "tract_share", "share": 0.9}),
    (
        "tract-share-all",
        "share 0.5, falling rate, restarts",
        {"method": "tract_share", "share": 0.5, "lr_schedule": "linear", "phase_start": "from_teacher"},
    ),
    ("tract-binary", "ten phases", {"schedule": BINARY}),
    (
        "tract-binary-as-btd",
        "ten phases, trained as BTD",
        {
            "schedule": BINARY,
            "lr": BTD_LR,
            "lr_schedule": "linear",
            "phase_start": "from_teacher",
            "clip_target": False,
        },
    ),
    (
        "tract-binary-share",
        "ten phases, trained as BTD, share 0.5",
        {
            "method": "tract_share",
            "share": 0.5,
            "schedule": BINARY,
            "lr": BTD_LR,
            "lr_schedule": "linear",
            "phase_start": "from_teacher",
            "clip_target": False,
        },
    ),
]
FOLLOW_UP = [  # chosen after the others had been seen: do the two changes that helped TRACT most add up?
    ("tract-no-clip-uniform", "unclipped targets, uniform weight", {"clip_target": False, "loss_weight": "uniform"}),
    (
        "tract-no-clip-uniform-512k",
        "unclipped targets, uniform weight, 512K",
        {"clip_target": False, "loss_weight": "uniform", "budget": "512K"},
    ),
    ("btd-uniform-512k", "uniform weight, 512K", {"loss_weight": "uniform", "budget": "512K"}),
]
BUDGETS = ["64K", "512K", "1536K"]
NETWORKS = ["mlp-third", "mlp-wide"]  # the phase 32,32 moves the sampler into them
MIXTURES = ["2:2", "8:2", "200:2", "8:16", "8:64"]
METHODS = {"btd": {"lr": BTD_LR}, "tract": {}}


def main() -> None:
    """Write the tables."""
    digits = [_row(name, _label(name, label), _base(name) | settings) for name, label, settings in VARIANTS]
    for method, settings in METHODS.items():
        for budget in BUDGETS:
            digits.append(
                _row(
                    f"{method}-{budget.lower()}",
                    _label(method, budget),
                    {"method": method} | settings | {"budget": budget},
                )
            )
        schedule = BINARY if method == "btd" else [1024, 32, 1]
        moved = [*schedule[: schedule.index(32)], 32, *schedule[schedule.index(32) :]]
        for network in NETWORKS:
            own = {"method": method} | settings | {"schedule": moved, "student": network}
            digits.append(_row(f"{method}-{network}", _label(method, network), own))
    _write("digits", "digits", "raw", "fd_pixel", "192K", digits)
    later = [_row(name, _label(name, label), _base(name) | settings) for name, label, settings in FOLLOW_UP]
    _write("digits-follow-up", "digits", "raw", "fd_pixel", "192K", later)
    for mixture in MIXTURES:
        rows = [_row(method, method.upper(), {"method": method}) for method in METHODS]
        _write("modes-" + mixture.replace(":", "-"), f"modes:{mixture}", "exact", "sliced_w2", "128K", rows)


def _base(name: str) -> dict[str, object]:
    method = name.partition("-")[0]
    return {"method": method} | METHODS[method]


def _label(name: str, label: str) -> str:
    method = name.partition("-")[0].upper()
    return label if label == method else f"{method}, {label}"


def _row(name: str, label: str, settings: dict[str, object]) -> str:
    values = ", ".join(f"{key} = {json.dumps(value)}" for key, value in settings.items())
    return f'[[row]]\nid = "{name}"\nlabel = "{label}"\nsettings = {{ {values} }}\ncell = [{{ nfe = 1 }}]\n'


def _write(name: str, dataset: str, protocol: str, metric: str, budget: str, rows: list[str]) -> None:
    head = f'# Written by variants.py\ntitle = "What decides: {dataset}"\ndataset = "{dataset}"\ntier = "small"\n'
    head += f'protocol = "{protocol}"\nmetric = "{metric}"\ntraining_seeds = "{SEEDS}"\n'
    head += f'settings = {{ budget = "{budget}" }}\n'
    (HERE / "tables" / f"{name}.toml").write_text("\n".join([head, *rows]), encoding="utf-8")


if __name__ == "__main__":
    main()
