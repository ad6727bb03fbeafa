"""Vectors at rest: the Parquet table, the gallery folder, exact and IVF-PQ search. Never pixels, never a model."""
