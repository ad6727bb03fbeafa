"""Readers that yield photos with labels, and the garment generator."""
