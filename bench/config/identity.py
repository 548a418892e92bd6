"""What a run is called: hashes of all that decides its numbers."""

from __future__ import annotations

import hashlib

from tractbench.config.fields import SAMPLING_FIELDS, UNTRAINED_FIELDS, RunConfig
from tractbench.datasets.base import Dataset
from tractbench.io.canonical import canonical
from tractbench.method import Method
from tractbench.registry import plugin_source_hash

RESULTS_VERSION = 2
"""Raised by hand whenever a change alters results; part of every student's identity."""

SCORING_VERSION = 3
"""Raised by hand whenever a change alters scores or what they are computed from; part of the keys of their caches."""


def student_id(config: RunConfig, method: Method, teacher_hash: str, dataset: Dataset) -> str:
    """Return the sha256 of all that decides a student's weights.

    Args:
        config: the run.
        method: its method; one from outside this distribution counts with its source.
        teacher_hash: sha256 of the teacher's weights and card.
        dataset: its data set; likewise.
    """
    training: dict[str, object] = {"method": config.method, "process": config.process}
    if method.trains:
        fields = set(RunConfig.model_fields) - SAMPLING_FIELDS - {"teacher"}
        training = config.model_dump(mode="json", include=fields) | {"data": dataset.fingerprint}
    sources = [plugin_source_hash(type(method)), plugin_source_hash(type(dataset))]
    parts = {"training": training, "teacher": teacher_hash, "results": RESULTS_VERSION, "sources": sources}
    return hashlib.sha256(canonical(parts).encode()).hexdigest()


def identity(student: str, config: RunConfig, reference_hash: str) -> str:
    """Return the sha256 of a student with its sampling, its protocol and the reference it is scored against."""
    sampling = config.model_dump(mode="json", include=set(UNTRAINED_FIELDS) - {"method", "process", "teacher"})
    parts = {"student": student, "sampling": sampling, "reference": reference_hash}
    return hashlib.sha256(canonical(parts).encode()).hexdigest()
