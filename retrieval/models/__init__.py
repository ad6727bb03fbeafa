"""Garment networks: backbone, attention branches, attribute blocks, memory matrix, checkpoints."""
