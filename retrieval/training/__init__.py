"""Training: samplers, losses, augmentation and the loop."""
