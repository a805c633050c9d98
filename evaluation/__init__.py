"""From a network and LR images to SR images, figures and reports: one way to upscale, one way to measure."""
