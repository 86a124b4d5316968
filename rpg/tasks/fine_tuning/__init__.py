"""Image classification with pretrained timm networks."""
