"""Measuring SR images: metrics, whole test sets, benchmark reports, figures, and the paper's tables (`evaluation/paper`)."""
