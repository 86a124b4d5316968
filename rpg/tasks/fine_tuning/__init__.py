"""Image classification with timm networks that were trained elsewhere."""
