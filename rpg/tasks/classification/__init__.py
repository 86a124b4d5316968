"""Image classification with timm networks that this project trains."""
