"""The scales of the paper: HR and SR images have so many times the height and width of their LR image."""

SCALES = (2, 3, 4)
