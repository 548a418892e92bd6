"""Finished runs as files that others sample from without tractbench.

``exporting.export_run(run, form, folder)`` writes the folder, ``card.model_card`` its README.
"""
