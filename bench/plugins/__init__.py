"""Finds components - methods, data sets, feature extractors, networks, processes, workloads - by their names.

This package's own and those of other distributions are found in the same way, by entry points in the groups
``tractbench.methods``, ``.datasets``, ``.extractors``, ``.networks``, ``.processes`` and ``.workloads``. Files that are
not installed offer what they define once :func:`use_files` names them. Names are compared without regard to case, and
with hyphens as underscores. A component is imported when somebody asks for it, so that a broken one stops nobody else.
"""

from tractbench.plugins.files import file_components, use_files, used_files
from tractbench.plugins.hashes import distribution_hash, plugin_hashes
from tractbench.plugins.lookup import complaints, components, find, load_class, names
from tractbench.plugins.offers import WORDS, Component, Kind, forget, normal, remembered

__all__ = [
    "WORDS",
    "Component",
    "Kind",
    "complaints",
    "components",
    "distribution_hash",
    "file_components",
    "find",
    "forget",
    "load_class",
    "names",
    "normal",
    "plugin_hashes",
    "remembered",
    "use_files",
    "used_files",
]
