"""How much a training step costs beyond its network passes, as ratios to times measured in turn in the same run.

The floor of a method is its network passes alone, as in ``tractbench profile``; for the second ratio it limits
gradients and takes the optimiser's step too, as any training does. TRACT-EDM's teacher step is Heun's: two passes of
the teacher and one of the self-teacher.

    python tests/benchmarks/training_step.py [--method tract] [--seconds 20] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics

from tractbench.config.resolve import resolve
from tractbench.diffusion.processes import load_process
from tractbench.pipeline.counts import teacher_preset
from tractbench.pipeline.measure import Subject
from tractbench.pipeline.steps import StepParts
from tractbench.pipeline.timing import interleaved, median_ratio

METHODS = ("btd", "tract", "tract_edm")


def measure(method_name: str, limit: float) -> dict[str, float | str]:
    """Return the ratios of a method's training step to its passes, and to these with gradients and optimiser."""
    config, method, dataset = resolve({"method": method_name, "dataset": "digits"})
    process = load_process(config.process, config.grid_steps)
    with dataset.computing():
        subject = Subject(config, method, dataset, process, teacher_preset(config, dataset), "cpu")
        parts = StepParts(subject.distillation(config.batch))
        works = {"step": parts.run.train_step, "floor": parts.floor(), "updating": parts.floor(updating=True)}
        times = interleaved(works, "cpu", limit=limit, rounds=1000, least=0.2)
    return {
        "method": method_name,
        "ratio": median_ratio(times["step"], times["floor"]),
        "ratio_with_optimiser": median_ratio(times["step"], times["updating"]),
        "step_ms": 1e3 * statistics.median(times["step"]),
        "floor_ms": 1e3 * statistics.median(times["floor"]),
    }


def main() -> None:
    """Print one line, or one JSON object, for each method."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", choices=METHODS, action="append", help="only this one; repeatable")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each method")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    for name in arguments.method or METHODS:
        row = measure(name, arguments.seconds)
        if arguments.json:
            print(json.dumps(row))
        else:
            print(
                f"{name}: {row['ratio']:.3f} of its network passes, {row['ratio_with_optimiser']:.3f} of these with "
                f"gradients and optimiser ({row['step_ms']:.2f} ms against {row['floor_ms']:.2f} ms)"
            )


if __name__ == "__main__":
    main()
