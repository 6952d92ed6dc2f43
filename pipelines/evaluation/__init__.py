"""Evaluation: probes on labelled points, designed baselines, checks of the embeddings, and the report of a run.

Pure functions on arrays and on :class:`pipelines.sequence.Sequence`; no Ray, no model, no configuration object. The
only part of the system that may read a synthetic Earth's truth.
"""
