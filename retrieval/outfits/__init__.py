"""What goes with what: outfits, and words for photos, on top of an image model's embedding."""
