"""Garments in photos of people: where they are, and what kind each one is."""
