"""tractbench: a reproducibility benchmark for few-step diffusion distillation (TRACT, arXiv 2303.04248)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

__all__ = ["load_results"]


def load_results(
    runs: str | Path = "runs", *, by: Literal["run", "score"] = "run", measured: bool = True
) -> pd.DataFrame:
    """Return the results in a folder, and those that come with the package, as a DataFrame.

    Args:
        runs: the folder that ``tractbench run`` wrote to.
        by: ``run`` for one row a run with each metric's mean and standard deviation over sampling seeds (``fid``,
            ``fid_std``); ``score`` for one row for each metric and sampling seed.
        measured: include the results that come with the package. The column ``origin`` says ``yours`` or ``shipped``;
            group by it, so that the two are never averaged together.

    Returns:
        The columns that :data:`tractbench.reports.frames.RUN_COLUMNS` or ``SCORE_COLUMNS`` there describes. Of runs
        made twice, the later one; failed runs are there, with their reason and without scores.

    Raises:
        StoreError: the folder holds no results, and none that come with the package are asked for or there.

    Warns:
        UserWarning: a record cannot be read and is left out, or the folder holds no results.
    """
    from tractbench.reports.frames import load_results

    return load_results(runs, by=by, measured=measured)
