"""Image classification with timm networks that are trained here."""
